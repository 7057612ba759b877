"""Schedulers of samplers with settings, and of model folders with flows, EDM and other solvers."""

from __future__ import annotations

import shutil
from typing import Any

import diffusers
import pytest
import torch

from dqar.integration import DQARSampler, SamplerConfig
from pipeline.errors import InputError
from pipeline.models.loading import load_model
from pipeline.models.model_info import DIGITS, find_model
from pipeline.models.schedulers import load_scheduler, scheduler_of_run

# NumPy warns of how diffusers' schedulers hand it tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

SOLVERS = {
    "ddim:timestep_spacing=trailing": "DDIMScheduler",
    "dpm:timestep_spacing=linspace,use_karras_sigmas=true": "DPMSolverMultistepScheduler",
    "dpm:solver_order=3,timestep_spacing=trailing": "DPMSolverMultistepScheduler",
    "unipc:solver_order=3,use_karras_sigmas=true": "UniPCMultistepScheduler",
    "unipc:timestep_spacing=linspace": "UniPCMultistepScheduler",
    "deis:timestep_spacing=trailing": "DEISMultistepScheduler",
    "deis:solver_order=3,use_karras_sigmas=true": "DEISMultistepScheduler",
}


@pytest.mark.parametrize("sampler", list(SOLVERS))
@pytest.mark.parametrize("steps", [6, 50])
def test_a_setting_is_diffusers_own_scheduler_with_the_models_noise(sampler, steps):
    info = find_model("digits")
    found = scheduler_of_run(info, sampler, steps)
    saved: Any = diffusers.DDIMScheduler.from_pretrained(DIGITS / "scheduler")
    settings = dict(pair.split("=") for pair in sampler.partition(":")[2].split(","))
    typed = {"true": True, "2": 2, "3": 3}
    kind = getattr(diffusers, SOLVERS[sampler])
    expected = kind.from_config(
        saved.config, **{name: typed.get(text, text) for name, text in settings.items()}
    )
    expected.set_timesteps(steps)
    assert type(found) is kind
    assert torch.equal(found.timesteps, expected.timesteps)
    torch.testing.assert_close(found.alphas_cumprod, saved.alphas_cumprod)
    for name, text in settings.items():
        assert found.config[name] == typed.get(text, text)


@pytest.fixture
def copied(tmp_path):
    return shutil.copytree(DIGITS, tmp_path / "digits")


def save(folder, name, **settings):
    """Put a scheduler into a model's folder and return the model's description."""
    shutil.rmtree(folder / "scheduler")
    getattr(diffusers, name)(**settings).save_pretrained(folder / "scheduler")
    return find_model(str(folder))


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SAVED = [
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("DPMSolverMultistepScheduler", FLOW),
    ("UniPCMultistepScheduler", FLOW),
    ("EDMEulerScheduler", {}),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("DDIMScheduler", {}),
]


@pytest.mark.parametrize(("name", "settings"), SAVED)
def test_saved_samples_by_the_folders_own_scheduler(copied, name, settings):
    info = save(copied, name, **settings)
    assert len(scheduler_of_run(info, "saved", 6).timesteps) == 6
    model = load_model(info, sampler="saved", dtype="fp32", device="cpu")
    assert type(model.scheduler).__name__ == name
    noise, labels = torch.randn(2, 1, 8, 8), [1, 2]
    config = SamplerConfig(num_inference_steps=6, guidance_scale=1.0)
    latents = DQARSampler(model.transformer, model.scheduler, config).sample(
        2, labels, latents=noise
    )
    assert torch.isfinite(latents).all()
    assert torch.equal(latents, by_hand(model, name, settings, noise, torch.tensor(labels)))


def by_hand(model, name, settings, noise, labels):
    scheduler = getattr(diffusers, name)(**settings)
    scheduler.set_timesteps(6)
    latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            rows = latents
            if hasattr(scheduler, "scale_model_input"):
                rows = scheduler.scale_model_input(latents, timestep)
            output = model.transformer(rows, timestep=timestep.expand(2), class_labels=labels)
            latents = scheduler.step(output.sample, timestep, latents).prev_sample
    return latents


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("HeunDiscreteScheduler", {}, "call the model once a step.* Got HeunDisc.* up to 2 calls"),
        ("FlowMatchHeunDiscreteScheduler", {}, "must call the model once a step"),
        ("EulerAncestralDiscreteScheduler", {}, "must draw no noise .* Got EulerAncestral"),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "must draw no noise"),
        ("IPNDMScheduler", {}, "must be one of the supported schedulers.* Got IPNDMScheduler"),
    ],
)
def test_saved_schedulers_that_no_run_can_follow_are_refused(copied, name, settings, said):
    info = save(copied, name, **settings)
    with pytest.raises(InputError, match=rf"^--model .* with --sampler saved: .*{said}") as refused:
        load_scheduler(info, "saved")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ("dpm:use_exponential_sigmas=true,use_karras_sigmas=true", "Only one of"),
        ("dpm:solver_order=9", "must have solver_order of 1, 2, 3"),
    ],
)
def test_settings_that_diffusers_refuses_are_one_line(sampler, said):
    with pytest.raises(InputError, match=rf"--sampler {sampler[:20]}.*{said}") as refused:
        load_scheduler(find_model("digits"), sampler)
    assert "\n" not in str(refused.value)
