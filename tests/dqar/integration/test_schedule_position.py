"""Runs follow the timestep that the model is called with: late starts, repeats, refusals."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from dqar.gates.rules import Interval, MaskGate
from dqar.integration import schedule_position
from dqar.integration.compiled.planned_transformer import PlannedDiT
from dqar.integration.schedule_position import SchedulePosition
from dqar.integration.step_counter import Run
from dqar.schedules.static_plan import StaticPlan
from dqar.snr import scheduler_snr
from tests.dqar.by_hand import controller_of

START = 2

# NumPy warns of how diffusers' schedulers hand it tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def scheduler_of(*timesteps: float, **more) -> SimpleNamespace:
    return SimpleNamespace(timesteps=torch.tensor(timesteps), **more)


@given(
    st.lists(st.integers(0, 999), min_size=1, max_size=12).map(sorted).map(reversed).map(list),
    st.data(),
)
def test_each_entry_from_any_start_on_is_its_own_step(timesteps, data):
    start = timesteps.index(data.draw(st.sampled_from(timesteps)))
    position = SchedulePosition(scheduler_of(*timesteps))
    followed = [position.advance(torch.tensor(timestep)) for timestep in timesteps[start:]]
    assert followed == list(range(start, len(timesteps)))
    with pytest.raises(ValueError, match=rf"after the last of {len(timesteps)} steps"):
        position.advance(torch.tensor(timesteps[-1]))


def test_repeated_timesteps_are_told_apart_by_their_order():
    scheduler = HeunDiscreteScheduler()
    scheduler.set_timesteps(4)
    position = SchedulePosition(scheduler)
    assert [position.advance(t) for t in scheduler.timesteps] == list(range(7))


@pytest.mark.parametrize(("begin_index", "step"), [(2, 2), (1, 1), (0, 1), (None, 1)])
def test_a_first_call_at_a_repeated_timestep_is_where_the_scheduler_begins(begin_index, step):
    scheduler = scheduler_of(900, 600, 600, 300, begin_index=begin_index)
    assert SchedulePosition(scheduler).advance(torch.tensor(600)) == step


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_timesteps_rounded_to_another_dtype_are_found(dtype):
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(7)
    position = SchedulePosition(scheduler)
    given = [timestep.to(dtype).expand(3) for timestep in scheduler.timesteps]
    assert [position.advance(timestep) for timestep in given] == list(range(7))


def test_a_number_is_a_timestep_too():
    position = SchedulePosition(scheduler_of(900, 600))
    assert [position.advance(900), position.advance(600.0)] == [0, 1]


def test_a_timestep_off_the_schedule_is_refused():
    with pytest.raises(ValueError, match=r"2 timesteps, 900 to 600\. Got 750\.0\. Call scheduler"):
        SchedulePosition(scheduler_of(900, 600)).advance(torch.tensor(750))
    with pytest.raises(ValueError, match="0 timesteps, none set"):
        SchedulePosition(scheduler_of()).advance(torch.tensor(750))


@pytest.mark.parametrize(("second", "got"), [(900, "900"), (300, "300"), (750, "750")])
def test_a_call_that_repeats_or_skips_a_step_is_refused(second, got):
    position = SchedulePosition(scheduler_of(900, 600, 300))
    position.advance(torch.tensor(900))
    with pytest.raises(ValueError, match=rf"Got timestep {got} where 600 is next\. Stack"):
        position.advance(torch.tensor(second))


@pytest.mark.parametrize("times", [2, 3])
def test_a_repeated_timestep_with_equal_latents_is_named(times):
    """A repeated sigma leaves the latents as they are, so that its calls look like branches."""
    position = SchedulePosition(scheduler_of(1000, *[700] * times, 400))
    position.advance(torch.tensor(1000))
    position.advance(torch.tensor(700))
    for _ in range(times - 1):
        position.repeat(torch.tensor(700))
    with pytest.raises(ValueError, match=r"Got 400 where 700 is repeated.*Leave the repeated"):
        position.advance(torch.tensor(400))


def test_rows_of_different_timesteps_are_refused():
    with pytest.raises(ValueError, match=r"same for all rows of a batch\. Got 2 different"):
        SchedulePosition(scheduler_of(900, 600)).advance(torch.tensor([900, 600]))


class Arriving:
    """A timestep on its way from a device, whose arrival is counted."""

    waits = 0

    def __init__(self, timestep, step):
        self.timestep, self.step = timestep, step

    def value(self):
        Arriving.waits += 1
        return schedule_position._value(self.timestep)


class OnDevice(torch.Tensor):
    """A tensor of the host that says to be on a GPU."""

    is_cuda = True  # pyright: ignore[reportAssignmentType] a tensor's own is computed


@pytest.fixture
def device_timesteps(monkeypatch):
    monkeypatch.setattr(schedule_position, "_DeviceTimestep", SimpleNamespace(copy=Arriving))
    monkeypatch.setattr(Arriving, "waits", 0)
    return lambda value: torch.tensor(value).as_subclass(OnDevice)


def test_a_timestep_on_the_device_is_compared_one_call_later(device_timesteps):
    position = SchedulePosition(scheduler_of(900, 600, 300))
    assert position.advance(device_timesteps(900)) == 0
    assert Arriving.waits == 0
    assert position.advance(device_timesteps(600)) == 1
    assert position.advance(device_timesteps(300)) == 2
    assert Arriving.waits == 1
    position.finish()
    position.finish()
    assert Arriving.waits == 2


def test_a_wrong_timestep_on_the_device_is_refused_one_call_later(device_timesteps):
    position = SchedulePosition(scheduler_of(900, 600, 300))
    position.advance(device_timesteps(900))
    position.advance(device_timesteps(900))
    with pytest.raises(ValueError, match="Got timestep 900 where 600 is next"):
        position.finish()


def test_a_wrong_last_timestep_on_the_device_is_refused_at_the_end_of_the_run(device_timesteps):
    run = Run(scheduler_of(900, 600), controller_of(), num_branches=1, prompt_length=16)
    run.position.advance(device_timesteps(900))
    run.position.advance(device_timesteps(900))
    with pytest.raises(ValueError, match="Got timestep 900 where 600 is next"):
        run.finish()


# Image-to-image: a sampling loop over scheduler.timesteps[START:].


def late_run(rig, model, run, scheduler) -> torch.Tensor:
    """Final latents of a loop that leaves out the first steps."""
    scheduler.set_timesteps(rig.steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(START)
    latents = rig.noise
    with torch.no_grad(), run:
        for timestep in scheduler.timesteps[START:]:
            rows = scheduler.scale_model_input(latents, timestep)
            labels = timestep.expand(len(rows)), rig.labels
            output = model(rows, timestep=labels[0], class_labels=labels[1]).sample
            latents = scheduler.step(output[:, :1], timestep, latents).prev_sample
    return latents


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler], ids=lambda k: k.__name__)
def test_gates_of_a_late_run_see_its_timesteps(rig, kind):
    records, scheduler = [], kind.from_config(rig.scheduler.config)
    wrapper = rig.wrap(rig.config(), Interval(2), sink=records.append)
    late_run(rig, wrapper, wrapper.run(scheduler, num_branches=1), scheduler)
    steps = [record.inputs.step for record in records]
    assert [step.index for step in steps] == list(range(START, rig.steps))
    assert {step.total for step in steps} == {rig.steps}
    assert [step.timestep for step in steps] == scheduler.timesteps[START:].tolist()
    assert [step.snr for step in steps] == [scheduler_snr(scheduler, s.timestep) for s in steps]


def test_a_late_run_after_another_starts_with_an_empty_cache(rig):
    mask = torch.ones(rig.steps, 2 * rig.layers, rig.samples, dtype=torch.bool)
    wrapper = rig.wrap(rig.config(), MaskGate(mask))
    rig.sample(wrapper)
    scheduler = rig.scheduler
    late_run(rig, wrapper, wrapper.run(scheduler, num_branches=1), scheduler)
    assert wrapper.controller.summary().by_step == [0, *[18] * (rig.steps - START - 1)]


@pytest.mark.parametrize("sites", [("attn", "ff"), ("block",)])
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("feedback", [0.0, 0.5])
def test_a_plan_followed_from_a_late_step_is_its_controllers(rig, sites, order, feedback):
    mask = (
        torch.rand(rig.steps, len(sites) * rig.layers, generator=torch.Generator().manual_seed(3))
        < 0.6
    )
    mask[0] = False
    plan = StaticPlan.of_mask(mask, sites=sites, forecast_order=order, feedback=feedback)
    config = rig.config(sites=sites, forecast_order=order, feedback=feedback, quantization_bits=32)
    wrapper = rig.wrap(config, plan.gate())
    run = wrapper.run(rig.scheduler, num_branches=1)
    expected = late_run(rig, wrapper, run, rig.scheduler)
    wrapper.unpatch()
    planned = PlannedDiT(rig.model, plan)
    whole = rig.sample(planned, guidance=1.0)
    for _ in range(2):
        late = late_run(rig, planned, planned.run(rig.scheduler), rig.scheduler)
        assert torch.equal(late, expected)
    assert torch.equal(rig.sample(planned, guidance=1.0), whole)


def test_guidance_in_two_calls_is_refused(rig):
    wrapper = rig.wrap(rig.config())
    rig.scheduler.set_timesteps(rig.steps)
    arguments = {"timestep": rig.scheduler.timesteps[0].expand(3), "class_labels": rig.labels}
    with wrapper.run(rig.scheduler, num_branches=1):
        wrapper(rig.noise, **arguments)
        with pytest.raises(ValueError, match="Stack the guidance branches in one batch"):
            wrapper(rig.noise, **arguments)


def test_a_call_without_a_timestep_is_refused(rig):
    wrapper = rig.wrap(rig.config())
    rig.scheduler.set_timesteps(rig.steps)
    with (
        wrapper.run(rig.scheduler, num_branches=1),
        pytest.raises(ValueError, match="must call the model with a timestep"),
    ):
        wrapper(rig.noise, class_labels=rig.labels)
