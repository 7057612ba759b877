"""Unit size: measured by a warm-up for a new folder, kept for a folder that has a plan."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.config import ClusterConfig
from pipeline.collect.unit_size import (
    MEMORY_SHARE,
    TARGET_S,
    WarmUp,
    WarmUpBatch,
    choose_unit_size,
    fit_unit_size,
)
from pipeline.errors import InputError
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.models.model_info import find_model
from pipeline.storage.object_store import open_storage
from pipeline.traces.commit import claim_output

PLAN = CollectPlan(model="digits", model_hash="0", num_trajectories=10_000)


@given(
    st.integers(1, 512),
    st.floats(1e-4, 300.0),
    st.floats(0.0, 1.0),
    st.booleans(),
    st.integers(1, 64),
    st.integers(1, 5_000),
)
def test_a_unit_is_within_every_bound(size, seconds, share, is_limit, workers, num_trajectories):
    plan = CollectPlan(model="digits", model_hash="0", num_trajectories=num_trajectories)
    probe = WarmUpBatch(size=size, seconds=seconds, memory_share=share, is_limit=is_limit)
    chosen = fit_unit_size([probe], plan, workers)
    masks = plan.masks_per_noise
    assert chosen >= masks
    assert chosen % masks == 0
    if chosen > masks:
        assert chosen * seconds / size <= TARGET_S * (1 + 1e-6)
        assert chosen * share / size <= MEMORY_SHARE * (1 + 1e-6)
        assert chosen <= size or not is_limit
        assert chosen * workers <= num_trajectories + workers


def test_a_unit_takes_one_to_two_minutes_where_nothing_else_binds():
    probes = [WarmUpBatch(size=3, seconds=9.0), WarmUpBatch(size=24, seconds=12.0)]
    chosen = fit_unit_size(probes, PLAN, workers=8)
    assert chosen == 159
    assert 60.0 <= chosen * 12.0 / 24 <= 120.0


def test_workers_that_share_a_gpu_share_its_memory():
    probes = [WarmUpBatch(size=48, seconds=1.0, memory_share=0.4)]
    plan = replace(PLAN, num_trajectories=10_000)
    alone, shared = (fit_unit_size(probes, plan, 1, gpu_share=share) for share in (1.0, 0.5))
    assert (alone, shared) == (96, 48)


def test_a_folder_that_was_planned_keeps_its_size(tmp_path, capsys):
    claim_output(tmp_path, replace(PLAN, model_hash="0" * 16, batch_size=21))
    assert choose_unit_size(PLAN, open_storage(tmp_path), ClusterConfig()).batch_size == 21
    assert "units of 21 trajectories, as in" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"batch_size": 0}', '{"batch_size": "x"}', "3"])
def test_a_plan_that_does_not_read_is_refused(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match=r"plan\.json must"):
        choose_unit_size(PLAN, open_storage(tmp_path), ClusterConfig())


def test_a_folder_of_other_files_is_refused_before_any_warm_up(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="other files"):
        choose_unit_size(PLAN, open_storage(tmp_path), ClusterConfig())


def test_a_warm_up_doubles_its_batches_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    info = find_model("digits")
    plan = CollectPlan(
        model="digits", model_hash=info.model_hash, steps=2, guidance_scale=2.0, masks_per_noise=2
    )
    probes = WarmUp(plan).do(8)
    assert [probe.size for probe in probes] == [2, 2, 4, 8]
    assert all(probe.seconds > 0 for probe in probes)
    assert list(tmp_path.iterdir()) == []
