"""Several collections of one model under one setting are read as one dataset."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.traces import read_gates, read_trajectories, stream_gates
from pipeline.traces.commit import claim_output, write_manifest
from pipeline.traces.dataset import open_dataset
from pipeline.traces.multi_dataset import open_traces
from pipeline.tracking import write_lineage
from pipeline.train.config import TrainConfig
from pipeline.train.run import lineage_of
from pipeline.train.train import train
from pipeline.train.training_data import matching_trajectories
from tests.pipeline.gate_readers import (
    check_propensities,
    load_reused_gates,
    max_gap_of,
    snrs_of,
)
from tests.pipeline.little_traces import FACTS, PLAN, commit_all

NEAR = {"designs": ("near-policy",), "bases": ((0, 1),), "policy_digest": "a" * 24}


@pytest.fixture
def little(tmp_path):
    """Return a function that writes a finished collection of made-up values with changed plan
    fields."""

    def build(name, **changes):
        plan = replace(PLAN, **changes)
        claim_output(tmp_path / name, plan)
        write_manifest(tmp_path / name, plan, commit_all(tmp_path / name, plan), FACTS)
        return str(tmp_path / name)

    return build


@pytest.fixture
def both(traces, near_traces):
    """Folders of a first collection and of one that explored around schedules."""
    return str(traces), str(near_traces)


def test_tables_follow_each_other(both):
    for read in (read_trajectories, read_gates):
        one, other, together = (read(uri).to_pylist() for uri in (*both, both))
        assert together == one + other
    assert sum(batch.num_rows for batch in stream_gates(both)) == read_gates(both).num_rows


def test_noise_samples_of_one_collection_are_its_ids(traces):
    ids = read_trajectories(str(traces))["noise_id"].to_numpy()
    assert (
        open_traces(str(traces)).noise_index.tolist()
        == np.unique(ids, return_inverse=True)[1].tolist()
    )


def test_rounds_around_policies_share_no_noise_samples(both):
    noises = open_traces(both).noise_index
    assert len(set(noises[:24])) == 8
    assert len(set(noises[24:])) == 4
    assert not set(noises[:24]) & set(noises[24:])
    assert noises[24:].tolist() == np.repeat(range(8, 12), 3).tolist()


@pytest.mark.parametrize(
    ("changes", "noises"),
    [
        ({"designs": ("regular",)}, 4),
        ({"seed": 1}, 8),
        (NEAR, 8),
        (NEAR | {"seed": 1}, 8),
    ],
    ids=["same seed", "another seed", "near", "both"],
)
def test_collections_of_one_seed_share_their_noise_samples(little, changes, noises):
    found = open_traces((little("first"), little("second", **changes))).noise_index
    assert len(found) == 20
    assert len(set(found)) == noises


def test_trajectories_of_a_noise_sample_stay_together_across_collections(little):
    """A noise sample that two collections share has one index, and is held out of both."""
    uri = (little("first"), little("second", designs=("regular",)))
    noises = open_traces(uri).noise_index
    assert noises[:10].tolist() == noises[10:].tolist()


def test_collections_of_models_with_other_schedulers_are_refused(little):
    first, second = (
        little(name, model_hash=f"transformer=1,scheduler={name}") for name in ("first", "second")
    )
    with pytest.raises(InputError, match=r"with a model with another scheduler as in"):
        open_traces((first, second))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 4),
        ("sites", ("attn", "ff")),
        ("sampler", "dpm"),
        ("guidance_scale", 2.0),
        ("cache_bits", 16),
    ],
)
def test_collections_of_other_settings_are_refused(little, name, value):
    changes = {name: value}
    plan = replace(PLAN, **changes)
    first, second = little("first"), little("second", **changes)
    shown = list(value) if isinstance(value, tuple) else value
    with pytest.raises(InputError, match="of one model, and collected with the same") as refused:
        open_traces((first, second))
    assert f"{name} {shown!r} instead of" in str(refused.value)
    assert plan.plan_hash == open_traces(second).parts[0].plan["plan_hash"]


def test_sites_may_be_named_in_another_order(little):
    first = little("first", sites=("attn", "ff"))
    second = little("second", sites=("ff", "attn"), seed=1)
    assert open_traces((first, second)).plan["sites"] == ["attn", "ff"]


def test_a_collection_that_is_named_twice_is_refused(little, tmp_path):
    first = little("first")
    with pytest.raises(InputError, match=r"each collection once.*Leave one of the two out"):
        open_traces((first, first))
    with pytest.raises(InputError, match="each collection once"):
        open_traces((first, little("copy")))


def test_one_that_is_no_collection_is_refused(little, tmp_path):
    with pytest.raises(InputError, match=r"no plan\.json"):
        open_traces((little("first"), str(tmp_path / "nowhere")))


def test_the_digest_is_of_all_in_their_order(little):
    first, second = little("first"), little("second", seed=1)
    assert open_traces(first).digest == open_traces((first,)).digest == open_dataset(first).digest
    digests = {open_traces(uri).digest for uri in (first, second, (first, second), (second, first))}
    assert len(digests) == 4


def test_orders_are_those_that_any_explored(little):
    first, second = little("first", forecast_orders=(2, 0)), little("second", forecast_orders=(1,))
    assert open_traces((first, second)).forecast_orders == (0, 1, 2)
    assert open_traces(second).forecast_orders == (1,)


def test_what_a_fit_reads_of_several_is_what_it_reads_of_each(both):
    names = ("log_gap", "progress")
    one, other, together = (load_reused_gates(uri, names, ("attn",)) for uri in (*both, both))
    assert torch.equal(together.features, torch.cat([one.features, other.features]))
    assert torch.equal(together.trajectory, torch.cat([one.trajectory, other.trajectory + 24]))
    errors = torch.cat([one.squared_error, other.squared_error])
    assert torch.equal(together.squared_error, errors)
    assert matching_trajectories(open_traces(both), (0, 0.0)).shape == (36,)
    assert snrs_of(both) == snrs_of(both[0])
    assert max_gap_of(both) <= max(map(max_gap_of, both))
    assert check_propensities(both).metrics["strata"] >= 0


def test_training_on_several_is_validated_on_noise_samples_of_each(both):
    trained = train(TrainConfig(members=1), open_traces(both))
    metrics = trained.validation.metrics
    # Every fifth of 12 noise samples: 0 and 5 of the first collection, 10 of the second.
    assert metrics["trajectories_held_out"] == 9
    assert metrics["trajectories_fitted"] == 27
    assert trained.policy.spec.trace_digest == open_traces(both).digest
    assert trained.policy.spec.plans


@pytest.mark.slow
def test_one_collection_is_trained_on_as_ever(traces):
    config = TrainConfig(members=1)
    alone, listed = (train(config, open_traces(uri)) for uri in (str(traces), (str(traces),)))
    assert alone.policy.spec == listed.policy.spec
    for name, value in alone.policy.state_dict().items():
        assert torch.equal(value, listed.policy.state_dict()[name])


def test_lineage_names_the_runs_of_each(little):
    runs = [{"parent": "p", "collect": "c"}, {"parent": "q", "collect": "d"}, {}]
    roots = tuple(little(str(seed), seed=seed) for seed in range(3))
    for root, lineage in zip(roots, runs, strict=True):
        if lineage:
            write_lineage(root, lineage)

    def lineage_at(*indices):
        return lineage_of(open_traces(tuple(roots[index] for index in indices)))

    assert lineage_at(0, 1, 2) == {"parent": "p", "collect": "c", "collect-2": "d"}
    assert lineage_at(0) == runs[0]
    assert lineage_at(2) == {}
    assert lineage_at(2, 1) == {"parent": "q", "collect-2": "d"}


def test_traces_are_named_as_they_were_given(little, tmp_path, monkeypatch):
    first, second = little("first"), little("second", seed=1)
    assert str(open_traces(first)) == str(open_traces((first,))) == first
    monkeypatch.chdir(tmp_path)
    assert str(open_traces(("first", second))) == f"first, {second}"


def test_the_table_of_trajectories_is_read_once(both, monkeypatch):
    traces = open_traces(both)
    assert traces.trajectories.num_rows == 36
    monkeypatch.setattr("pipeline.traces.dataset.scan_shards", None)
    assert traces.trajectories.num_rows == len(traces.noise_index) == 36
    assert [part.trajectories.num_rows for part in traces.parts] == [24, 12]
