"""``free_cache`` releases every cached tensor and leaves the summary as it is."""

from __future__ import annotations

import weakref

import pytest
import torch

from dqar.control.controller import DQARController
from dqar.gates.rules import Interval
from dqar.integration import PlannedDiT
from dqar.schedules.export import export_plan


def cached_by(controller: DQARController) -> list[weakref.ref]:
    """Weak references to all cached tensors of a controller's run."""
    assert controller._run is not None
    history = controller._run.history
    entries = [
        entry
        for one in (history.values, *history.differences)
        for entry in vars(one)["_parts"].values()
    ]
    return [weakref.ref(part.values) for entry in entries for part in entry.values()]


@pytest.mark.parametrize("changes", [{"quantization_bits": 8}, {"forecast_order": 2}], ids=str)
def test_cached_tensors_are_gone(rig, changes):
    wrapper = rig.wrap(rig.config(feedback=0.5, **changes), Interval(2))
    reused = rig.sample(wrapper)
    controller = wrapper.controller
    cached, summary = cached_by(controller), controller.summary()
    assert len(cached) == 2 * rig.layers * (1 + changes.get("forecast_order", 0))
    controller.free_cache()
    controller.free_cache()
    assert [ref() for ref in cached if ref() is not None] == []
    assert controller.cache.nbytes == 0
    assert controller.summary() == summary
    assert summary.cache_bytes > 0
    assert torch.equal(rig.sample(wrapper), reused)


def test_cache_of_an_open_step_is_not_freed(rig):
    controller = rig.wrap(rig.config(), Interval(2), num_layers=rig.layers).controller
    controller.begin_step(0, 4)
    with pytest.raises(ValueError, match="must be freed between runs"):
        controller.free_cache()
    controller.commit(0, output=torch.ones(1, 2, 3))
    controller.finish_step()
    controller.free_cache()
    # The next step of the same run finds nothing cached, and computes.
    controller.begin_step(1, 4)
    assert not controller.should_reuse(0)


def test_buffers_of_a_plan_are_gone(rig):
    plan = export_plan(Interval(2), steps=rig.steps, sites=("attn",), num_layers=rig.layers)
    planned = PlannedDiT(rig.model, plan)
    reused = rig.sample(planned)
    buffers = [weakref.ref(one) for one in planned._memory.tensors]
    assert planned.kept_bytes > 0
    planned.free_cache()
    assert [ref() for ref in buffers if ref() is not None] == []
    assert planned.kept_bytes == 0
    assert torch.equal(rig.sample(planned), reused)
    rig.scheduler.set_timesteps(rig.steps)
    with planned.run(rig.scheduler), pytest.raises(ValueError, match="must be freed between runs"):
        planned.free_cache()
