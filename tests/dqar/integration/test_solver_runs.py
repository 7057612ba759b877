"""Runs over flows, EDM, second-order solvers, custom sigmas and late starts follow every call."""

from __future__ import annotations

import diffusers
import pytest
import torch

from dqar.gates.rules import Interval, NeverReuse
from dqar.integration.compiled.planned_transformer import PlannedDiT
from dqar.schedules.export import export_plan
from dqar.snr import scheduler_snr

# NumPy warns of how diffusers' schedulers hand it tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
EIGHT = {"num_inference_steps": 8}
SIGMAS = {"sigmas": [1.0, 0.8, 0.55, 0.3, 0.1]}
RUNS = {
    "flow": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, EIGHT),
    "flow-custom-sigmas": ("FlowMatchEulerDiscreteScheduler", {}, SIGMAS),
    "flow-heun": ("FlowMatchHeunDiscreteScheduler", {}, EIGHT),
    "flow-unipc": ("UniPCMultistepScheduler", FLOW, EIGHT),
    "flow-dpm": ("DPMSolverMultistepScheduler", FLOW, EIGHT),
    "edm-euler": ("EDMEulerScheduler", {}, EIGHT),
    "edm-dpm": ("EDMDPMSolverMultistepScheduler", {}, EIGHT),
    "heun": ("HeunDiscreteScheduler", {}, EIGHT),
    "kdpm2": ("KDPM2DiscreteScheduler", {}, EIGHT),
    "dpm-custom-timesteps": ("DPMSolverMultistepScheduler", {}, {"timesteps": [990, 700, 300, 20]}),
}
by_run = pytest.mark.parametrize("setting", list(RUNS))


def scheduler_of(setting):
    name, changes, schedule = RUNS[setting]
    scheduler = getattr(diffusers, name)(**changes)
    scheduler.set_timesteps(**schedule)
    return scheduler


def sample(rig, model, setting, *, run=None, start=0, begin=False):
    """Final latents of a loop over the scheduler's timesteps from one of them on."""
    scheduler, latents = scheduler_of(setting), rig.noise
    if begin:
        scheduler.set_begin_index(start)
    with torch.no_grad(), run(scheduler) if run else torch.no_grad():
        for timestep in scheduler.timesteps[start:]:
            rows = scheduler.scale_model_input(latents, timestep) if scales(scheduler) else latents
            output = model(rows, timestep=timestep.expand(len(rows)), class_labels=rig.labels)
            latents = scheduler.step(output.sample[:, :1], timestep, latents).prev_sample
    return latents, scheduler


def scales(scheduler):
    return hasattr(scheduler, "scale_model_input")


def wrapped(rig, gate, records):
    wrapper = rig.wrap(rig.config(), gate, sink=records.append)
    return wrapper, lambda scheduler: wrapper.run(scheduler, num_branches=1)


@by_run
def test_a_closed_run_is_the_stock_model(rig, setting):
    expected, _ = sample(rig, rig.model, setting)
    wrapper, run = wrapped(rig, NeverReuse(), [])
    found, _ = sample(rig, wrapper, setting, run=run)
    assert torch.equal(found, expected)


@by_run
def test_every_call_is_a_step_with_its_own_snr(rig, setting):
    records = []
    wrapper, run = wrapped(rig, Interval(2), records)
    sample(rig, wrapper, setting, run=run)
    steps = [record.inputs.step for record in records]
    fresh = scheduler_of(setting)
    timesteps = fresh.timesteps.double().tolist()
    assert [step.index for step in steps] == list(range(len(timesteps)))
    assert [step.snr for step in steps] == [
        scheduler_snr(fresh, timestep, step=index) for index, timestep in enumerate(timesteps)
    ]
    reused = wrapper.controller.summary().by_step
    assert [count > 0 for count in reused] == [bool(i % 2) for i in range(len(timesteps))]


@by_run
def test_a_planned_model_follows_the_same_steps(rig, setting):
    wrapper, run = wrapped(rig, Interval(2), [])
    expected, scheduler = sample(rig, wrapper, setting, run=run)
    wrapper.unpatch()
    plan = export_plan(
        Interval(2), sites=("attn", "ff"), num_layers=rig.layers, scheduler=scheduler_of(setting)
    )
    assert len(plan.timesteps) == len(scheduler.timesteps)
    planned = PlannedDiT(rig.model, plan)
    found, _ = sample(rig, planned, setting, run=planned.run)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("setting", "start"), [("heun", 3), ("heun", 4), ("flow-heun", 5)])
def test_a_late_start_within_a_second_order_step_begins_at_the_begin_index(rig, setting, start):
    records = []
    wrapper, run = wrapped(rig, NeverReuse(), records)
    _, scheduler = sample(rig, wrapper, setting, run=run, start=start, begin=True)
    found = [record.inputs.step.index for record in records]
    assert found == list(range(start, len(scheduler.timesteps)))
