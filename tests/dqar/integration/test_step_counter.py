"""Successive sampling runs, and runs that are refused or end with an exception."""

from __future__ import annotations

import pytest
import torch

from dqar.control.controller import DQARController
from dqar.gates.base import AllOf
from dqar.gates.rules import Interval, NeverReuse
from dqar.snr import flow_snr


def test_second_run_does_not_see_the_first(rig):
    wrapper = rig.wrap(rig.config(), Interval(2))
    assert torch.equal(rig.sample(wrapper), rig.sample(wrapper))


def test_another_controller_may_sit_in(rig):
    stock = rig.sample()
    wrapper = rig.wrap(rig.config(), AllOf())
    guest = DQARController(rig.config(), gate=NeverReuse())
    assert torch.equal(rig.sample(wrapper, controller=guest), stock)
    assert guest.summary().gates == rig.steps * 2 * rig.layers * rig.samples


def test_run_within_a_run_leaves_it_as_it_was(rig):
    wrapper = rig.wrap(rig.config(), Interval(2))
    alone = rig.sample(wrapper)
    guest = DQARController(rig.config(), gate=NeverReuse())
    scheduler, inner = rig.scheduler, []

    def sample_another(done: int) -> None:
        if done == 3:
            rig.scheduler = type(scheduler).from_config(scheduler.config)
            inner.append(rig.sample(wrapper, controller=guest))

    assert torch.equal(rig.sample(wrapper, on_step=sample_another), alone)
    assert torch.equal(inner[0], rig.sample())


def test_controller_serves_one_run_at_a_time(rig):
    wrapper = rig.wrap(rig.config(), Interval(2))
    alone = rig.sample(wrapper)
    with (
        wrapper.run(rig.scheduler, num_branches=2),
        pytest.raises(ValueError, match=r"must serve one run at a time\. Got one that is running"),
    ):
        rig.sample(wrapper)
    assert torch.equal(rig.sample(wrapper), alone)


def test_call_beyond_the_run_is_refused(rig):
    rig.scheduler.set_timesteps(1)
    timestep = rig.scheduler.timesteps[0].expand(3)
    arguments = {"timestep": timestep, "class_labels": rig.labels}
    stock = rig.model(rig.noise, **arguments).sample
    wrapper = rig.wrap(rig.config())
    with wrapper.run(rig.scheduler, num_branches=1):
        wrapper(rig.noise, **arguments)
        with pytest.raises(ValueError, match=r"one more call after the last of 1 steps"):
            wrapper(rig.noise, **arguments)
    assert torch.equal(wrapper(rig.noise, **arguments).sample, stock)


@pytest.mark.parametrize("second", [3, 8, 4])
@pytest.mark.parametrize("branches", [1, 2])
def test_batch_that_changes_is_refused(rig, branches, second):
    """Guidance that is switched off late leaves one branch, of half as many rows."""
    rig.scheduler.set_timesteps(2)
    wrapper = rig.wrap(rig.config(), Interval(2))
    with torch.no_grad(), wrapper.run(rig.scheduler, num_branches=branches):
        first, last = rig.scheduler.timesteps
        call = {"class_labels": torch.ones(6, dtype=torch.long)}
        wrapper(torch.zeros(6, 1, 8, 8), timestep=first.expand(6), **call)
        rows = {"class_labels": torch.ones(second, dtype=torch.long)}
        with pytest.raises(ValueError, match=rf"hold the first call's batch.*Got {second} rows"):
            wrapper(torch.zeros(second, 1, 8, 8), timestep=last.expand(second), **rows)


def test_batch_of_half_a_sample_is_refused(rig):
    rig.scheduler.set_timesteps(2)
    wrapper = rig.wrap(rig.config(), Interval(2))
    timestep = rig.scheduler.timesteps[0].expand(3)
    with (
        wrapper.run(rig.scheduler, num_branches=2),
        pytest.raises(ValueError, match=r"num_branches rows a sample\. Got 3 rows after 3"),
    ):
        wrapper(rig.noise, timestep=timestep, class_labels=rig.labels)


class Watched:
    """A scheduler with sigmas that counts how often its timesteps are read."""

    def __init__(self, timesteps: list[float]) -> None:
        self.read, self.steps = 0, torch.tensor(timesteps)
        self.sigmas = torch.linspace(0.9, 0.0, len(timesteps) + 1)
        self.step_index = 0

    @property
    def timesteps(self) -> torch.Tensor:
        self.read += 1
        return self.steps


def snrs_of_run(rig, scheduler: Watched) -> tuple[list[float], list[int]]:
    """Return the SNR of each step, and the number of reads of the timesteps up to that step."""
    records, reads = [], []
    wrapper = rig.wrap(rig.config(), NeverReuse(), sink=records.append)
    with wrapper.run(scheduler, num_branches=1):
        for step in range(len(scheduler.steps)):
            scheduler.step_index = step
            timestep = scheduler.steps[step].expand(3)
            rig.model(rig.noise, timestep=timestep, class_labels=rig.labels)
            reads.append(scheduler.read)
    return [record.inputs.step.snr for record in records], reads


def test_schedule_is_read_at_the_first_call_alone(rig):
    scheduler = Watched([900.0, 600.0, 300.0])
    snrs, reads = snrs_of_run(rig, scheduler)
    assert snrs == [flow_snr(float(sigma)) for sigma in scheduler.sigmas[:3]]
    assert len(set(reads)) == 1


def test_equal_timesteps_are_resolved_by_the_step(rig):
    scheduler = Watched([900.0, 600.0, 600.0])
    snrs, _ = snrs_of_run(rig, scheduler)
    assert snrs == [flow_snr(float(sigma)) for sigma in scheduler.sigmas[:3]]
    assert snrs[1] < snrs[2]


def test_run_that_broke_off_leaves_the_model_stock(rig):
    stock = rig.sample()
    wrapper = rig.wrap(rig.config(), Interval(2))
    whole = rig.sample(wrapper)

    def break_off(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rig.sample(wrapper, on_step=break_off)
    assert torch.equal(rig.sample(), stock)
    assert torch.equal(rig.sample(wrapper), whole)


def test_step_that_broke_off_is_not_recorded(rig):
    """The model raises within the fourth step, after its first block has reused or committed."""
    whole, records = [], []
    rig.sample(wrapped := rig.wrap(rig.config(), Interval(2), sink=whole.append))
    wrapped.unpatch()
    wrapper = rig.wrap(rig.config(), Interval(2), sink=records.append)

    def break_off(*_: object) -> None:
        if len(records) == 3:
            raise KeyboardInterrupt

    handle = rig.model.transformer_blocks[-1].register_forward_hook(break_off)
    with pytest.raises(KeyboardInterrupt):
        rig.sample(wrapper)
    handle.remove()
    assert [record.inputs.step.index for record in records] == [0, 1, 2]
    assert wrapper.controller.summary().gates == 3 * 2 * rig.layers * rig.samples
    for record, complete in zip(records, whole[:3], strict=True):
        assert torch.equal(record.decision.reason, complete.decision.reason)


def test_controller_of_another_depth_is_refused(rig):
    wrapper = rig.wrap(rig.config(), num_layers=28)
    with pytest.raises(ValueError, match="num_layers must be the model's"):
        rig.sample(wrapper)


@pytest.mark.parametrize("changes", [{"sites": ("ff",)}, {"cached": "kv"}], ids=str)
def test_controller_of_other_sites_is_refused(rig, changes):
    wrapper = rig.wrap(rig.config(), NeverReuse())
    guest = DQARController(rig.config(**changes))
    with pytest.raises(ValueError, match="controller's sites must be the patched ones"):
        rig.sample(wrapper, controller=guest)
    assert torch.equal(rig.sample(wrapper), rig.sample())


@pytest.mark.parametrize("extra", ["attention_mask", "encoder_hidden_states"])
def test_mask_or_encoder_states_beside_keys_and_values_are_refused_in_a_run(rig, extra):
    rig.scheduler.set_timesteps(1)
    wrapper = rig.wrap(rig.config(cached="kv"))
    hidden = torch.zeros(3, 16, 16)
    attention = rig.model.transformer_blocks[0].attn1
    with wrapper.run(rig.scheduler, num_branches=1):
        wrapper(rig.noise, timestep=rig.scheduler.timesteps[0].expand(3), class_labels=rig.labels)
        with pytest.raises(ValueError, match="must take hidden states alone"):
            attention(hidden, **{extra: hidden.clone()})
