"""Sample one model with DQAR, and reference samples: the same noise and labels without reuse."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.control.summary import ReuseSummary
from dqar.gates.paper_cascade import policy_gate
from dqar.gates.rules import Interval
from dqar.integration import DQARDiTWrapper, DQARSampler, SamplerConfig
from dqar.policy.network import ReusePolicy
from dqar.sampler_names import plan_sampler, sampler_of_plan
from dqar.schedules.static_plan import StaticPlan
from dqar.signals import relative_error
from pipeline.errors import InputError, input_errors
from pipeline.models.loading import LoadedModel
from pipeline.models.model_info import ModelInfo
from pipeline.models.noise import draw_noise
from pipeline.models.sampling_choices import Dtype, Sampler, require_sampler, sampler_change
from pipeline.models.schedulers import scheduler_of_run
from pipeline.progress import Progress

WARM_UP_STEPS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """Settings of a sampling run in which every value is decided.

    The defaults are those of :class:`pipeline.sample.flags.SampleFlags`. The names are keys of
    sample.json.
    """

    model: str
    """``digits``, a diffusers folder, or a Hub id."""
    dqar: DQARConfig
    """Cache, sites, and the thresholds of the DQAR paper's cascade."""
    cascade: bool
    """True if the cascade decides about reuse; False leaves that to a policy or a plan alone."""
    num_samples: int
    """Number of samples, all in one batch."""
    class_labels: tuple[int, ...]
    """Class of each sample; empty draws the classes at random with the noise."""
    steps: int
    """Sampling steps."""
    guidance_scale: float
    """Scale of classifier-free guidance; 1 or less samples without guidance."""
    sampler: Sampler
    """Deterministic sampler, with its settings."""
    twin: bool
    """True if reference samples are drawn too."""
    dtype: Dtype
    """Name of the dtype that the model computes in."""
    seed: int
    """Random seed of the noise and of the random classes."""

    def __post_init__(self) -> None:
        for name, usual in (("num_samples", 4), ("steps", 50)):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1. Got {value}. Pass {usual}.")
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale must be finite. Got {self.guidance_scale}. Pass 4.0.")
        require_sampler(self.sampler)
        if self.class_labels and len(self.class_labels) != self.num_samples:
            raise ValueError(
                f"class_labels must have one entry for each sample. Got {len(self.class_labels)} "
                f"for {self.num_samples} samples. Pass as many."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """Samples of one run. Without reference samples, three of the fields are None."""

    class_labels: list[int]
    """Class of each sample."""
    images: Float[Tensor, "b c h w"]
    """Images with DQAR, in [-1, 1], on the CPU."""
    reference_images: Float[Tensor, "b c h w"] | None
    """Images of the reference samples, in [-1, 1], on the CPU."""
    latent_rel_l2: list[float] | None
    """Relative L2 distance of each final latent to the reference sample's final latent."""
    seconds_per_sample: float
    """Wall time of the sampling loop, without decoding, divided by the number of samples."""
    reference_seconds_per_sample: float | None
    """Wall time of the sampling loop of the reference samples, divided by their number."""
    summary: ReuseSummary
    """Reuse decisions counted by reason, site, layer and step."""


def refuse_unknown_labels(info: ModelInfo, labels: tuple[int, ...]) -> None:
    """Refuse labels that are not classes of the model. The null class of guidance is not one.

    Raises:
        InputError: if a label is not a class; the message names such labels.
    """
    unknown = [label for label in labels if not 0 <= label < info.num_classes]
    if unknown:
        raise InputError(
            f"--class-labels must be between 0 and {info.num_classes - 1} for {info.name}. "
            f"Got {unknown}. Pass classes of the model."
        )


def refuse_misfit(info: ModelInfo, config: SampleConfig, plan: StaticPlan | None) -> None:
    """Refuse a plan for other layers, another number of steps or another sampler.

    Raises:
        InputError: if the plan does not fit; the message names the difference.
    """
    if plan is None:
        return
    scheduler = scheduler_of_run(info, config.sampler, config.steps)
    timesteps = list(map(float, scheduler.timesteps))
    with input_errors():
        plan.refuse_misfit(num_layers=info.num_layers, timesteps=timesteps)
    if plan.sampler not in ("", name := plan_sampler(config.sampler)):
        named = sampler_of_plan(plan.sampler)
        change = "" if named is None else f": {sampler_change(named, config.sampler)}"
        raise InputError(
            f"--plan must be for the sampler of this run. Got a plan for {plan.sampler}, with "
            f"{name} as the sampler{change}. Leave --sampler out, or evaluate with {name}."
        )


def controller_for(
    config: SampleConfig, policy: ReusePolicy | None, plan: StaticPlan | None = None
) -> DQARController:
    """Return the controller of the run.

    A plan decides about reuse alone. Without a plan, the DQAR paper's cascade decides, with the
    policy as its last gate; with ``config.cascade`` False the policy decides alone.
    """
    if plan is not None and config.dqar.enabled:
        return DQARController(config.dqar, gate=plan.gate())
    if policy is None or config.cascade or not config.dqar.enabled:
        return DQARController(config.dqar, policy=policy)
    return DQARController(config.dqar, gate=policy_gate(policy))


def sample(
    config: SampleConfig,
    model: LoadedModel,
    policy: ReusePolicy | None,
    plan: StaticPlan | None = None,
) -> Sampled:
    """Draw reference samples without reuse, then sample the same noise and labels with DQAR."""
    noise, labels = _draw(config, model)
    controller = controller_for(config, policy, plan)
    wrapper = DQARDiTWrapper(model.transformer, controller=controller)
    run = _Run(config=config, model=model, noise=noise, labels=labels)
    try:
        # The first steps load kernels and grow the allocator's pools. Without this warm-up the
        # reference samples, which come first, would be timed too slow.
        warm_up = DQARController(config.dqar, gate=Interval(2))
        run.timed(wrapper, min(WARM_UP_STEPS, config.steps), None, warm_up)
        reference = run.timed(model.transformer, config.steps, "reference") if config.twin else None
        latents, seconds = run.timed(wrapper, config.steps, "sample")
    finally:
        wrapper.unpatch()
    return Sampled(
        class_labels=labels.tolist(),
        images=model.decode(latents).cpu(),
        reference_images=reference and model.decode(reference[0]).cpu(),
        latent_rel_l2=reference and relative_error(latents, reference[0]).tolist(),
        seconds_per_sample=seconds / len(noise),
        reference_seconds_per_sample=reference and reference[1] / len(noise),
        summary=controller.summary(),
    )


def _draw(
    config: SampleConfig, model: LoadedModel
) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, " b"]]:
    info, device = model.info, model.transformer.device
    indices = range(config.num_samples)
    noise, labels = draw_noise("sample", config.seed, indices, info.latent_shape, info.num_classes)
    if config.class_labels:
        labels = torch.tensor(config.class_labels)
    return noise.to(device, model.transformer.dtype), labels.to(device)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """One batch of noise and labels, from which every loop of a run starts."""

    config: SampleConfig
    model: LoadedModel
    noise: Tensor
    labels: Tensor

    def timed(
        self,
        transformer: Any,
        steps: int,
        what: str | None,
        controller: DQARController | None = None,
    ) -> tuple[Tensor, float]:
        """Sample the batch; return the final latents and the seconds that sampling took.

        Args:
            transformer: model or DQAR wrapper.
            steps: sampling steps.
            what: name on the progress line; None prints no progress.
            controller: controller in place of the one of the wrapper.
        """
        config = SamplerConfig(num_inference_steps=steps, guidance_scale=self.config.guidance_scale)
        sampler = DQARSampler(transformer, self.model.scheduler, config)
        on_step = _progress(what, steps)
        self._synchronize()
        started = time.perf_counter()
        latents = sampler.sample(
            len(self.noise),
            self.labels,
            latents=self.noise,
            on_step=on_step,
            controller=controller,
        )
        self._synchronize()
        return latents, time.perf_counter() - started

    def _synchronize(self) -> None:
        if self.noise.device.type == "cuda":
            torch.cuda.synchronize()


def _progress(what: str | None, steps: int) -> Callable[[int], None]:
    if what is None:
        return lambda done: None
    shown = Progress(what, steps, "steps")
    return lambda done: shown.advance(1)
