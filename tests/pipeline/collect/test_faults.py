"""Failing units of a collection: they are quarantined, reported and retried, and never enter the
dataset."""

import json
import os
import sys
from dataclasses import replace

import pytest
import ray
import torch
from ray import cloudpickle

from pipeline.cluster.config import ClusterConfig
from pipeline.cluster.ray_cluster import leave_ray
from pipeline.collect.driver import collect
from pipeline.collect.quarantine import FOLDER, Diverged
from pipeline.collect.worker import Collector, refuse_diverged
from pipeline.errors import IncompleteError, InputError
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.models.model_info import find_model
from pipeline.traces.commit import claim_output
from pipeline.traces.multi_dataset import open_traces

BAD, DEADLY = 1, 3
"""Index of the unit that diverges, and index of the unit that kills its workers."""


class DivergesIn(Collector):
    """Collector that draws NaN as the first noise sample of one unit, which then diverges."""

    def _draw(self, noise_ids):
        noise, labels = super()._draw(noise_ids)
        if noise_ids[0] == BAD * self.plan.noises_per_unit:
            noise[0] = torch.nan
        return noise, labels


class DivergesAlways(Collector):
    """Collector that draws NaN as the noise of every unit."""

    def _draw(self, noise_ids):
        noise, labels = super()._draw(noise_ids)
        return noise * torch.nan, labels


class DivergesOrDies(DivergesIn):
    """Collector with one unit that diverges and another unit that kills its workers."""

    def sample(self, unit):
        if unit.index == DEADLY:
            os._exit(1)
        return super().sample(unit)


@pytest.fixture(scope="module", autouse=True)
def classes_by_value():
    """Pickle this module's classes by value, because workers cannot import a test module."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def local_ray():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        leave_ray()


@pytest.fixture(scope="module")
def plan():
    """Plan of five units, with two sampling steps."""
    info = find_model("digits")
    return CollectPlan(
        model="digits",
        model_hash=info.model_hash,
        num_trajectories=15,
        batch_size=3,
        steps=2,
        guidance_scale=info.guidance_scale,
    )


@pytest.fixture
def root(tmp_path, plan):
    claim_output(tmp_path / "traces", plan)
    return tmp_path / "traces"


def quarantined(root):
    return {path.stem: json.loads(path.read_text()) for path in (root / FOLDER).glob("*.json")}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_others_are_done_and_the_same_command_finishes(local_ray, root, plan, capsys):
    config = ClusterConfig(workers=2, max_attempts=2)
    units = list(plan.units())
    bad, deadly = units[BAD].unit_id, units[DEADLY].unit_id
    with pytest.raises(IncompleteError, match=r"^2 units are quarantined and no manifest") as ended:
        collect(plan, root, config, worker=DivergesOrDies)
    assert f"{bad}.json" in str(ended.value)
    assert f"{deadly}.json" in str(ended.value)
    assert len(list((root / "_receipts").glob("*.json"))) == 3
    assert len(list((root / "trajectories").glob("*.parquet"))) == 3
    assert not list((root / "trajectories").glob(f"{bad}*"))
    found = quarantined(root)
    assert {name: one["attempts"] for name, one in found.items()} == {bad: 2, deadly: 2}
    assert "Diverged: Trajectories must end in finite" in found[bad]["error"]
    assert f"unit={bad} index=1 status=given_up attempt=2" in capsys.readouterr().out
    with pytest.raises(InputError, match="which has no manifest"):
        open_traces(str(root))

    manifest = collect(plan, root, config)
    assert manifest["trajectories"] == 15
    assert quarantined(root) == {}
    assert "9 trajectories were committed before" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_model_that_diverges_everywhere_is_refused_after_a_few_units(local_ray, root, plan):
    with pytest.raises(InputError, match=r"^--model must sample without diverging\. Got 3 units"):
        collect(plan, root, ClusterConfig(workers=1), worker=DivergesAlways)
    assert len(quarantined(root)) == 3


def test_diverged_trajectories_are_named(plan):
    collector = DivergesIn(plan, root="")
    _, bad, *_ = plan.units()
    with pytest.raises(
        Diverged, match=rf"Got 3 of 3 trajectories with NaN or infinity: {plan.trajectory_id(3)}, "
    ):
        collector.sample(bad)
    refuse_diverged(["a", "b"], torch.tensor([True, True]))
    with pytest.raises(Diverged, match=r"Got 1 of 2 trajectories with NaN or infinity: b\."):
        refuse_diverged(["a", "b"], torch.tensor([True, False]))


def test_one_diverged_trajectory_names_no_other(plan):
    """Three of the six trajectories start from the noise sample that is NaN."""
    collector = DivergesIn(replace(plan, batch_size=6), root="")
    _, bad, *_ = collector.plan.units()
    lost = [collector.plan.trajectory_id(index) for index in range(bad.start, bad.start + 3)]
    with pytest.raises(Diverged, match=f"Got 3 of 6 traj.* infinity: {', '.join(lost)}. Pass"):
        collector.sample(bad)
