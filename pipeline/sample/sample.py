"""Samples of one model with DQAR, and their twins: the same noise and labels without reuse."""

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
from dqar.schedules.static_plan import StaticPlan
from dqar.signals import relative_error
from pipeline.errors import InputError, checked
from pipeline.models.loading import LoadedModel, scheduler_of_run
from pipeline.models.model_info import ModelInfo
from pipeline.models.noise import draw_noise
from pipeline.models.sampling_choices import Dtype, Sampler
from pipeline.progress import Progress

WARM_UP_STEPS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """What to sample, and how reuse is decided."""

    model: str
    """``digits``, a folder, or a hub id."""
    dqar: DQARConfig
    """Cache, sites, and the thresholds of the cascade."""
    cascade: bool = True
    """Whether those thresholds gate; False leaves the decision to a policy or a plan alone."""
    num_samples: int = 4
    """Samples, all in one batch."""
    class_labels: tuple[int, ...] = ()
    """A class for each sample; drawn with the noise where empty."""
    steps: int = 50
    """Sampling steps."""
    guidance_scale: float = 4.0
    """Classifier-free guidance; 1 or less samples without."""
    sampler: Sampler = "ddim"
    """Deterministic sampler."""
    twin: bool = True
    """Whether the twins are sampled too."""
    dtype: Dtype = "fp32"
    """Dtype of the model's arithmetic."""
    seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        for name, usual in (("num_samples", 4), ("steps", 50)):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1. Got {value}. Pass {usual}.")
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale must be finite. Got {self.guidance_scale}. Pass 4.0.")
        if self.class_labels and len(self.class_labels) != self.num_samples:
            raise ValueError(
                f"class_labels must have one entry a sample. Got {len(self.class_labels)} for "
                f"{self.num_samples=}. Pass as many."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """What came out; the twin's part is None where it was not asked for."""

    class_labels: list[int]
    images: Float[Tensor, "b c h w"]
    """In [-1, 1], on the CPU."""
    twin_images: Float[Tensor, "b c h w"] | None
    latent_rel_l2: list[float] | None
    """Relative L2 distance of each final latent to its twin's."""
    seconds_per_sample: float
    """Wall time of the sampling loop over the batch, decoding excluded."""
    twin_seconds_per_sample: float | None
    summary: ReuseSummary
    """What fired, and what refused."""


def refuse_unknown_labels(info: ModelInfo, labels: tuple[int, ...]) -> None:
    """Labels must be classes of the model.

    Raises:
        InputError: naming those that are not; the null class is none.
    """
    unknown = [label for label in labels if not 0 <= label < info.num_classes]
    if unknown:
        raise InputError(
            f"--class-labels must be between 0 and {info.num_classes - 1} for {info.name}. "
            f"Got {unknown}. Pass classes that the model knows."
        )


def refuse_misfit(info: ModelInfo, config: SampleConfig, plan: StaticPlan | None) -> None:
    """A plan is for one model's layers, one number of steps and one sampler.

    Raises:
        InputError: naming what does not fit.
    """
    if plan is None:
        return
    scheduler = scheduler_of_run(info, config.sampler, config.steps)
    timesteps = list(map(float, scheduler.timesteps))
    checked(plan.refuse_misfit, num_layers=info.num_layers, timesteps=timesteps)
    if plan.sampler not in ("", name := type(scheduler).__name__):
        raise InputError(
            f"--plan must be of the sampler. Got one of {plan.sampler} for {name}. Leave --sampler "
            "out, or evaluate with the other."
        )


def controller_for(
    config: SampleConfig, policy: ReusePolicy | None, plan: StaticPlan | None = None
) -> DQARController:
    """The plan alone; or the seed's cascade, with the policy as its last gate; or the policy
    alone."""
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
    """Sample the twins on the stock model, then the same noise and labels with DQAR."""
    noise, labels = _draw(config, model)
    controller = controller_for(config, policy, plan)
    wrapper = DQARDiTWrapper(model.transformer, controller=controller)
    run = _Run(config=config, model=model, noise=noise, labels=labels)
    try:
        # The first steps pay for kernels and allocators; they must not be the twin's time.
        warm_up = DQARController(config.dqar, gate=Interval(2))
        run.timed(wrapper, min(WARM_UP_STEPS, config.steps), None, warm_up)
        twins = run.timed(model.transformer, config.steps, "twin") if config.twin else None
        latents, seconds = run.timed(wrapper, config.steps, "sample")
    finally:
        wrapper.unpatch()
    return Sampled(
        class_labels=labels.tolist(),
        images=model.decode(latents).cpu(),
        twin_images=twins and model.decode(twins[0]).cpu(),
        latent_rel_l2=twins and relative_error(latents, twins[0]).tolist(),
        seconds_per_sample=seconds / len(noise),
        twin_seconds_per_sample=twins and twins[1] / len(noise),
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
    """One batch of noise, sampled again and again."""

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
        """Final latents, and seconds; progress is shown under the name ``what``.

        Args:
            controller: in place of a wrapper's own.
        """
        config = SamplerConfig(num_inference_steps=steps, guidance_scale=self.config.guidance_scale)
        sampler = DQARSampler(transformer, self.model.scheduler, config)
        on_step = _progress(what, steps)
        self._settle()
        started = time.perf_counter()
        latents = sampler.sample(
            len(self.noise),
            self.labels,
            latents=self.noise,
            on_step=on_step,
            controller=controller,
        )
        self._settle()
        return latents, time.perf_counter() - started

    def _settle(self) -> None:
        if self.noise.device.type == "cuda":
            torch.cuda.synchronize()


def _progress(what: str | None, steps: int) -> Callable[[int], None]:
    if what is None:
        return lambda done: None
    shown = Progress(what, steps, "steps")
    return lambda done: shown.advance(1)
