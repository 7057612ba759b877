"""One conversion of schedulers: what is converted keeps its noise, what is not is refused."""

from __future__ import annotations

import diffusers
import pytest
import torch

from dqar.integration.noise_schedules import CONVERTIBLE, convert_scheduler

# NumPy warns of how diffusers' schedulers hand it tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

KINDS = (diffusers.DDIMScheduler, diffusers.DPMSolverMultistepScheduler)
BETAS = {"beta_start": 0.0003, "beta_end": 0.015, "beta_schedule": "scaled_linear"}
OTHERS = (
    "CogVideoXDDIMScheduler",
    "DDIMInverseScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "IPNDMScheduler",
    "LCMScheduler",
    "RePaintScheduler",
    "SCMScheduler",
    "ScoreSdeVeScheduler",
    "TCDScheduler",
    "UnCLIPScheduler",
)
"""Schedulers of diffusers with other noise schedules, distilled models or other tasks."""

by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@by_kind
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", sorted(CONVERTIBLE))
def test_a_converted_scheduler_keeps_noise_prediction_and_clipping(kind, name, prediction):
    saved = getattr(diffusers, name)(**BETAS, prediction_type=prediction)
    converted = convert_scheduler(kind, saved)
    assert isinstance(converted, kind)
    torch.testing.assert_close(converted.alphas_cumprod, saved.alphas_cumprod)
    assert converted.config.prediction_type == prediction
    clips = getattr(saved.config, "clip_sample", False)
    assert getattr(converted.config, "clip_sample", clips) == clips


@by_kind
def test_a_sampler_of_the_kind_is_itself(kind):
    scheduler = kind(**BETAS)
    assert convert_scheduler(kind, scheduler) is scheduler


@by_kind
@pytest.mark.parametrize("name", OTHERS)
def test_other_schedulers_are_refused(kind, name):
    scheduler = getattr(diffusers, name)()
    with pytest.raises(ValueError, match=rf"{kind.__name__} can take over\. Got {name}"):
        convert_scheduler(kind, scheduler)


@by_kind
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas=True"),
        ({"prediction_type": "sideways"}, "sideways"),
        ({"timestep_spacing": "sideways"}, "sideways"),
    ],
)
def test_other_settings_are_refused(kind, settings, said):
    scheduler = diffusers.DPMSolverMultistepScheduler(**settings)
    with pytest.raises(ValueError, match=rf"Got DPMSolverMultistepScheduler with .*{said}"):
        convert_scheduler(kind, scheduler)


@by_kind
def test_a_scheduler_of_other_alphas_than_its_betas_give_is_refused(kind):
    """The settings of a scheduler may not say what its noise schedule is."""
    scheduler = diffusers.DDPMScheduler(**BETAS)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod**2
    with pytest.raises(ValueError, match=r"Got DDPMScheduler with other alphas_cumprod\."):
        convert_scheduler(kind, scheduler)
