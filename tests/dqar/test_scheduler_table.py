"""The table of schedulers says what diffusers' classes do, and others are refused in one line."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import pytest
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from dqar.integration.schedule_position import SchedulePosition
from dqar.scheduler_table import SUPPORTED, is_random, kind_of, noise_of, require_supported

# NumPy warns of how diffusers' schedulers hand it tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

NEED_TORCHSDE = {"CosineDPMSolverMultistepScheduler", "DPMSolverSDEScheduler"}
STEPPED = sorted(SUPPORTED.keys() - NEED_TORCHSDE - {"PiflowScheduler", "SCMScheduler"})
"""Schedulers whose steps are taken here: Piflow's need a policy, SCM's run at two steps."""


@pytest.mark.parametrize("name", sorted(SUPPORTED))
def test_every_entry_is_a_class_of_diffusers(name):
    assert name in dir(diffusers)


def set_up(name, steps, **settings):
    scheduler = getattr(diffusers, name)(**settings)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("name", STEPPED)
def test_each_call_of_the_model_is_an_entry_of_the_timesteps(name):
    # Heun ends without its second call; PNDM begins with three Runge-Kutta steps.
    entries = {1: 12, 2: 2 * 12 - 1, 4: 4 * 3 + 9}[SUPPORTED[name].calls]
    entries += {"DDPMWuerstchenScheduler": 1, "MiniMaxH3Scheduler": -1}.get(name, 0)
    assert len(set_up(name, 12).timesteps) == entries


def is_repeatable(name, **settings):
    """True if two runs with different random draws end equal."""
    ends = []
    for seed in (1, 2):
        scheduler = set_up(name, 6, **settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            ends.append(run(scheduler, torch.full((1, 4, 8, 8), 0.5)))
    return torch.equal(*ends)


def run(scheduler, sample):
    output = torch.full_like(sample, 0.1)
    for timestep in scheduler.timesteps[:-1]:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, timestep)
        if isinstance(scheduler, diffusers.CogVideoXDPMScheduler):
            step: Any = scheduler.step  # None where there is no estimate of the clean sample yet
            sample = step(output, None, timestep, timestep, sample, return_dict=False)[0]
        elif isinstance(scheduler, diffusers.DDPMWuerstchenScheduler):
            sample = scheduler.step(output, timestep.reshape(1), sample)[0]
        else:
            sample = scheduler.step(output, timestep, sample)[0]
    return sample


@pytest.mark.parametrize("name", STEPPED)
def test_schedulers_whose_steps_draw_noise_are_marked(name):
    assert is_repeatable(name) == (not SUPPORTED[name].is_random)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ],
)
def test_settings_that_draw_noise_are_found(name, settings):
    assert is_random(getattr(diffusers, name)(**settings))
    assert not is_random(getattr(diffusers, name)())
    assert not is_repeatable(name, **settings)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_a_solver_over_the_sigmas_of_a_flow_is_a_flow(name):
    assert noise_of(getattr(diffusers, name)(use_flow_sigmas=True)) == "flow"
    assert noise_of(getattr(diffusers, name)()) == "sigmas"


class Own(SchedulerMixin, ConfigMixin):
    """A scheduler of a user's own."""

    config_name = "scheduler_config.json"
    timesteps = torch.tensor([900, 600])


class OwnFlow(diffusers.FlowMatchEulerDiscreteScheduler):
    """A scheduler of a user's own, whose base is in the table."""


@pytest.mark.parametrize("scheduler", [Own(), diffusers.IPNDMScheduler()], ids=["own", "IPNDM"])
def test_the_noise_level_of_a_scheduler_outside_the_table_is_refused(scheduler):
    with pytest.raises(ValueError, match=rf"Got {type(scheduler).__name__}\. Pass one of") as found:
        noise_of(scheduler)
    assert "\n" not in str(found.value)


def test_a_run_that_reads_no_noise_level_takes_any_scheduler():
    assert SchedulePosition(Own()).advance(torch.tensor(900)) == 0


def test_a_subclass_is_of_its_bases_kind():
    require_supported(OwnFlow())
    assert kind_of(OwnFlow()) == SUPPORTED["FlowMatchEulerDiscreteScheduler"]


def test_an_object_that_is_no_scheduler_of_diffusers_passes():
    require_supported(copy.copy(object()))
    assert noise_of(object()) is None
