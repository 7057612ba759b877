"""Refusals of a planned model, which can be used again after each of them."""

from __future__ import annotations

import threading

import pytest
import torch

from dqar.control.controller import DQARController
from dqar.gates.rules import Interval
from dqar.integration import Compilation, PlannedDiT
from dqar.schedules.export import export_plan
from dqar.schedules.static_plan import StaticPlan


def interval(rig, sites=("attn",), steps=None, **model) -> StaticPlan:
    return export_plan(
        Interval(2), sites=sites, steps=steps or rig.steps, **({"num_layers": rig.layers} | model)
    )


def test_another_depth(rig):
    with pytest.raises(ValueError, match=r"4 layers and 6 steps for 3 layers"):
        PlannedDiT(rig.model, interval(rig, num_layers=4))


def test_other_steps(rig):
    planned = PlannedDiT(rig.model, interval(rig, steps=5))
    with pytest.raises(ValueError, match=r"5 steps for 3 layers and 6 steps"):
        rig.sample(planned)


def test_another_scheduler(rig):
    rig.scheduler.set_timesteps(rig.steps)
    plan = export_plan(Interval(2), sites=("ff",), num_layers=3, scheduler=rig.scheduler)
    planned = PlannedDiT(rig.model, plan)
    rig.sample(planned)
    rig.scheduler.register_to_config(timestep_spacing="trailing")
    with pytest.raises(ValueError, match="exported for the timesteps of DDIMScheduler"):
        rig.sample(planned)


def test_more_calls_than_steps(rig):
    planned = PlannedDiT(rig.model, interval(rig))
    rig.scheduler.set_timesteps(rig.steps)
    with planned.run(rig.scheduler) as run:
        for timestep in rig.scheduler.timesteps:
            run.next_row(timestep)
        with pytest.raises(ValueError, match=r"after the last of 6 steps\. Begin a new run"):
            run.next_row(rig.scheduler.timesteps[-1])


def test_a_batch_that_changes_within_a_run(rig):
    planned = PlannedDiT(rig.model, interval(rig))
    rig.scheduler.set_timesteps(rig.steps)
    with torch.no_grad(), planned.run(rig.scheduler):
        for step, rows in enumerate((4, 4, 2)):
            labels = torch.ones(rows, dtype=torch.long)
            given = torch.zeros(rows, 1, 8, 8), rig.scheduler.timesteps[step].expand(rows)
            if rows == 2:
                with pytest.raises(ValueError, match="must stay the same from step 0"):
                    planned(given[0], timestep=given[1], class_labels=labels)
            else:
                planned(given[0], timestep=given[1], class_labels=labels)


def test_a_second_run_of_any_thread(rig):
    planned, said = PlannedDiT(rig.model, interval(rig)), []

    def second():
        try:
            with planned.run(rig.scheduler):
                said.append("ran")
        except ValueError as error:
            said.append(str(error))

    with planned.run(rig.scheduler):
        second()
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(said) == 2
    assert all("one run at a time" in line for line in said)
    second()
    assert said[2] == "ran"


def test_a_run_that_broke_off_leaves_the_model_free(rig):
    stock = rig.sample()
    planned = PlannedDiT(rig.model, interval(rig))
    expected = rig.sample(planned)

    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rig.sample(planned, on_step=stop)
    assert torch.equal(rig.sample(), stock)
    assert torch.equal(rig.sample(planned), expected)


def test_models_that_are_patched_or_compiled(rig):
    wrapper = rig.wrap(rig.config(), Interval(2))
    with pytest.raises(ValueError, match="must be stock and uncompiled"):
        PlannedDiT(rig.model, interval(rig))
    wrapper.unpatch()
    planned = PlannedDiT(rig.model, interval(rig))
    with pytest.raises(ValueError, match="must be stock and uncompiled"):
        PlannedDiT(rig.model, interval(rig))
    planned.unpatch()
    with pytest.raises(ValueError, match="must be stock and uncompiled"):
        PlannedDiT(torch.compile(rig.model, backend="eager"), interval(rig))


def test_sites_that_were_patched_since(rig):
    planned = PlannedDiT(rig.model, interval(rig))
    expected = rig.sample(planned)
    wrapper = rig.wrap(rig.config(), Interval(2))
    with pytest.raises(ValueError, match="must be stock and uncompiled"):
        rig.sample(planned)
    wrapper.unpatch()
    assert torch.equal(rig.sample(planned), expected)


def test_chunked_feed_forwards(rig):
    planned = PlannedDiT(rig.model, interval(rig, ("ff",)))
    rig.model.transformer_blocks[0].set_chunk_feed_forward(4, 1)
    with pytest.raises(ValueError, match="chunked feed-forward"):
        rig.sample(planned)
    planned.unpatch()
    with pytest.raises(ValueError, match="chunked feed-forward"):
        PlannedDiT(rig.model, interval(rig, ("block",)))


def test_patches_come_off_in_order(rig):
    planned = PlannedDiT(rig.model, interval(rig))
    rig.model.forward = rig.model.forward.__call__
    with pytest.raises(ValueError, match="come off in the reverse order"):
        planned.unpatch()


def test_controllers_and_models_without_blocks(rig):
    planned = PlannedDiT(rig.model, interval(rig))
    with pytest.raises(ValueError, match="must sit in a patched model"):
        rig.sample(planned, controller=DQARController())
    with pytest.raises(ValueError, match="must have a list of blocks"):
        PlannedDiT(torch.nn.Linear(2, 2), interval(rig))


@pytest.mark.parametrize("changes", [{"region": "model"}, {"mode": "fast"}])
def test_unknown_ways_to_compile(changes):
    # __wrapped__ bypasses the tests' run-time type checker, which callers do not have.
    unchecked = getattr(Compilation.__init__, "__wrapped__", Compilation.__init__)
    with pytest.raises(ValueError, match=rf"{next(iter(changes))} must be one of"):
        unchecked(object.__new__(Compilation), **changes)
