"""The samplers equal the loop of diffusers and convert other schedulers; the DQAR README's quick
start."""

from __future__ import annotations

import diffusers
import pytest
import torch

from dqar.control.controller import DQARController
from dqar.gates.rules import Interval, NeverReuse
from dqar.integration import (
    DQARDDIMSampler,
    DQARDiTWrapper,
    DQARDPMSolverSampler,
    DQARSampler,
    SamplerConfig,
)

# NumPy warns about the tensors that diffusers' solvers pass to NumPy functions.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

SAMPLERS = {"DDIMScheduler": DQARDDIMSampler, "DPMSolverMultistepScheduler": DQARDPMSolverSampler}

by_sampler = pytest.mark.parametrize("kind", SAMPLERS)


def scheduler_of(kind: str, **changes):
    """Make a diffusers scheduler by its class name."""
    return getattr(diffusers, kind)(**changes)


def sampled(rig, kind: str, model=None, **options):
    """Return latents of a sampler class, whose scheduler is converted from the rig's."""
    config = SamplerConfig(num_inference_steps=rig.steps)
    sampler = SAMPLERS[kind](model or rig.model, rig.scheduler, config)
    return sampler.sample(rig.samples, rig.labels, latents=rig.noise, **options)


# The loop.


@by_sampler
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sampler_is_the_stock_loop(pipe, images_of, kind, guidance, monkeypatch):
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config)
    seen, step = [], pipe.scheduler.step

    def watched(*args, **kwargs):
        seen.append(step(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(pipe.scheduler, "step", watched)
    images_of(pipe, guidance_scale=guidance)
    config = SamplerConfig(num_inference_steps=len(seen), guidance_scale=guidance)
    wrapper = DQARDiTWrapper(pipe.transformer, controller=DQARController(gate=NeverReuse()))
    found = SAMPLERS[kind](wrapper, pipe.scheduler, config).sample(
        2, torch.tensor([207, 360]), generator=torch.Generator().manual_seed(3)
    )
    stock = seen[len(seen) // 2 - 1].prev_sample[:2]
    assert torch.equal(found, stock)


@by_sampler
def test_wrapped_and_closed_is_the_stock_model(rig, kind):
    stock = sampled(rig, kind)
    assert torch.equal(sampled(rig, kind, rig.wrap(rig.config(), NeverReuse())), stock)


@by_sampler
def test_reuse_counts_every_step(rig, kind, distance):
    wrapper = rig.wrap(rig.config(sites=("attn",)), Interval(2))
    reused = sampled(rig, kind, wrapper)
    summary = wrapper.controller.summary()
    whole = rig.layers * rig.samples
    assert summary.by_step == [0, whole] * (rig.steps // 2)
    assert 1e-4 < distance(reused, sampled(rig, kind)) < 1.0


def test_solver_is_of_second_order(rig):
    sampler = DQARDPMSolverSampler(rig.model, rig.scheduler)
    assert sampler.scheduler.config.solver_order == 2
    assert sampler.scheduler.config.algorithm_type == "dpmsolver++"
    first = diffusers.DPMSolverMultistepScheduler.from_config(rig.scheduler.config, solver_order=1)
    assert not torch.equal(
        sampled(rig, "DPMSolverMultistepScheduler"),
        DQARDPMSolverSampler(rig.model, first, SamplerConfig(num_inference_steps=rig.steps)).sample(
            rig.samples, rig.labels, latents=rig.noise
        ),
    )


@pytest.mark.parametrize("steps", [1, 2, 7])
@by_sampler
def test_model_is_called_once_a_step(rig, kind, steps):
    calls = []
    rig.model.register_forward_hook(lambda *_: calls.append(1))
    rig.steps = steps
    sampled(rig, kind)
    assert len(calls) == steps


# The DQAR README passes torch_dtype, which diffusers deprecates in favour of dtype.
@pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")
def test_seed_quick_start(pipe, tmp_path):
    """The README's code, except for path, number of steps, device and dtype."""
    pipe.save_pretrained(tmp_path)

    from diffusers import DiTPipeline

    from dqar import DQARConfig, DQARDiTWrapper
    from dqar.integration import DQARDDIMSampler, SamplerConfig

    # Load DiT model
    pipe = DiTPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32)
    pipe.to("cpu")

    # Configure DQAR (optimal settings from A100 benchmarks)
    dqar_config = DQARConfig(
        quantization_bits=16,  # FP16 for quality preservation
        use_layer_scheduling=True,
        schedule_type="linear",
    )

    # Wrap model with DQAR
    wrapped_model = DQARDiTWrapper(pipe.transformer, dqar_config)

    # Create sampler
    sampler_config = SamplerConfig(
        num_inference_steps=10,
        guidance_scale=4.0,
    )
    sampler = DQARDDIMSampler(wrapped_model, pipe.scheduler, sampler_config)

    # Generate images
    latents = sampler.sample(
        batch_size=4,
        class_labels=torch.tensor([207, 360, 387, 974], device="cpu"),
    )

    # Decode with VAE
    images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample

    assert images.shape == (4, 3, 8, 8)
    assert images.isfinite().all()
    summary = wrapped_model.controller.summary()
    assert summary.gates == 10 * 3 * 4
    assert {"warmup", "schedule"} < set(summary.by_reason)


def test_labels_must_match_the_batch(rig):
    sampler = DQARDDIMSampler(rig.model, rig.scheduler)
    with pytest.raises(ValueError, match="class_labels must have one entry a sample"):
        sampler.sample(2, rig.labels)


def test_run_without_steps_is_refused():
    with pytest.raises(ValueError, match="num_inference_steps must be at least 1"):
        SamplerConfig(num_inference_steps=0)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf")])
def test_guidance_that_is_not_finite_is_refused(guidance):
    with pytest.raises(ValueError, match="guidance_scale must be finite"):
        SamplerConfig(guidance_scale=guidance)


def test_seed_gives_the_noise(rig):
    sampler = DQARDDIMSampler(rig.model, rig.scheduler, SamplerConfig(num_inference_steps=2))
    drawn = sampler.sample(3, rig.labels, generator=torch.Generator().manual_seed(11))
    assert torch.equal(drawn, sampler.sample(3, rig.labels, latents=rig.noise))


def test_labels_may_be_a_list(rig):
    sampler = DQARDDIMSampler(rig.model, rig.scheduler, SamplerConfig(num_inference_steps=2))
    found = sampler.sample(3, rig.labels.tolist(), latents=rig.noise)
    assert torch.equal(found, sampler.sample(3, rig.labels, latents=rig.noise))


def test_controller_without_a_wrapper_is_refused(rig):
    with pytest.raises(ValueError, match=r"must sit in a patched model\. Got a stock one"):
        rig.sample(controller=DQARController())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="another device than the CPU")
def test_noise_is_drawn_on_the_generators_device(rig):
    sampler = DQARDDIMSampler(rig.model, rig.scheduler, SamplerConfig(num_inference_steps=1))
    drawn = torch.Generator("cuda").manual_seed(11)
    noise = torch.randn(
        3, 1, 8, 8, generator=torch.Generator("cuda").manual_seed(11), device="cuda"
    )
    found = sampler.sample(3, rig.labels, generator=drawn)
    assert torch.equal(found, sampler.sample(3, rig.labels, latents=noise.cpu()))


@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_noise_is_scaled_as_the_scheduler_starts(rig, kind):
    scheduler = scheduler_of(kind)
    seen = []
    rig.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    sampler = DQARSampler(rig.model, scheduler, SamplerConfig(num_inference_steps=4))
    sampler.sample(3, rig.labels, latents=rig.noise)
    # scale_model_input gives the model a first input of unit variance.
    sigma = float(scheduler.sigmas[0])
    scale = float(scheduler.init_noise_sigma) / (sigma**2 + 1) ** 0.5
    assert scheduler.init_noise_sigma > 10
    torch.testing.assert_close(seen[0], torch.cat([rig.noise] * 2) * scale)
    drawn = sampler.sample(3, rig.labels, generator=torch.Generator().manual_seed(11))
    assert torch.equal(drawn, sampler.sample(3, rig.labels, latents=rig.noise))


# The scheduler.

LENDERS = [
    ("DDIMScheduler", {}),
    ("DDIMScheduler", {"beta_schedule": "scaled_linear", "beta_end": 0.012}),
    ("DDIMScheduler", {"trained_betas": [0.001 * step for step in range(1, 101)]}),
    ("DDPMScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
    ("DPMSolverMultistepScheduler", {"beta_schedule": "scaled_linear"}),
    ("DPMSolverMultistepScheduler", {"rescale_betas_zero_snr": True}),
    ("EulerDiscreteScheduler", {"beta_start": 0.0005}),
    ("PNDMScheduler", {"num_train_timesteps": 500}),
]


@by_sampler
@pytest.mark.parametrize(("lender", "changes"), LENDERS)
def test_another_scheduler_lends_its_noise_schedule(rig, kind, lender, changes):
    theirs = scheduler_of(lender, **changes)
    ours = SAMPLERS[kind](rig.model, theirs).scheduler
    assert type(ours).__name__ == kind
    assert (ours is theirs) is (lender == kind)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, atol=1e-6, rtol=0)
    assert ours.config.prediction_type == theirs.config.prediction_type


@by_sampler
@pytest.mark.parametrize(
    "lender", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "LCMScheduler"]
)
def test_scheduler_of_another_noise_is_refused(rig, kind, lender):
    with pytest.raises(ValueError, match=f"noise schedule that {kind} can take over. Got {lender}"):
        SAMPLERS[kind](rig.model, scheduler_of(lender))


@pytest.mark.parametrize(
    ("lender", "changes", "clips"),
    [
        ("DPMSolverMultistepScheduler", {}, False),
        ("EulerDiscreteScheduler", {}, False),
        ("DDPMScheduler", {}, True),
        ("DDPMScheduler", {"clip_sample": False}, False),
    ],
)
def test_ddim_clips_only_where_the_lender_did(rig, lender, changes, clips):
    sampler = DQARDDIMSampler(rig.model, scheduler_of(lender, **changes))
    assert sampler.scheduler.config.clip_sample is clips
