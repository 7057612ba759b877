"""The sampling loop of a class-conditional DiT: DiTPipeline's arithmetic without its VAE."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.control.controller import DQARController
from dqar.integration.compiled.planned_transformer import PlannedDiT
from dqar.integration.dit_wrapper import DQARDiTWrapper
from dqar.integration.noise_schedules import convert_scheduler


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """How to sample."""

    num_inference_steps: int = 50
    """Denoising steps."""
    guidance_scale: float = 4.0
    """Classifier-free guidance; 1 or less samples without."""

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ValueError(
                f"num_inference_steps must be at least 1. Got {self.num_inference_steps}. Pass 50."
            )
        if not math.isfinite(self.guidance_scale):
            raise ValueError(
                f"guidance_scale must be finite. Got {self.guidance_scale}. Pass 4.0, or 1.0 for "
                "no guidance."
            )


class DQARSampler:
    """Samples latents from a wrapped (or stock) transformer with a diffusers scheduler that
    calls the model once a step.

    A stock transformer in the wrapper's place samples without reuse, by the same arithmetic; a
    :class:`PlannedDiT` samples by its plan.
    """

    def __init__(self, model: Any, scheduler: Any, config: SamplerConfig | None = None) -> None:
        self.model = model
        self.scheduler = scheduler
        self.config = config or SamplerConfig()

    @torch.no_grad()
    def sample(
        self,
        batch_size: int,
        class_labels: Int[Tensor, " b"] | Sequence[int],
        *,
        latents: Float[Tensor, "b c height width"] | None = None,
        generator: torch.Generator | None = None,
        controller: DQARController | None = None,
        on_step: Callable[[int], None] = lambda _: None,
    ) -> Float[Tensor, "b c height width"]:
        """Denoise to final latents (undecoded).

        Args:
            latents: the initial noise, of unit variance; drawn from ``generator`` by default.
                Given or drawn, it is multiplied by the scheduler's ``init_noise_sigma``, where
                there is one, as diffusers' pipelines do (DiTPipeline, for schedulers that start
                at 1, does not).
            generator: noise is drawn on its device, and on the CPU without one.
            controller: sits in for the wrapper's own.
            on_step: called with the number of steps done.

        Raises:
            ValueError: if the labels do not match the batch size, or if a transformer without a
                wrapper is given a controller.
        """
        if len(class_labels) != batch_size:
            raise ValueError(
                f"class_labels must have one entry a sample. Got {len(class_labels)} for "
                f"{batch_size=}. Pass {batch_size} labels."
            )
        current = self._noise(batch_size, generator) if latents is None else latents
        labels = torch.as_tensor(class_labels, device=current.device)
        self.scheduler.set_timesteps(self.config.num_inference_steps)
        # Only now: some schedulers know it once they know their timesteps.
        current = current * getattr(self.scheduler, "init_noise_sigma", 1.0)
        with self._running(controller):
            for done, timestep in enumerate(self.scheduler.timesteps):
                noise = self._predict(current, timestep, labels)
                current = self.scheduler.step(noise, timestep, current).prev_sample
                on_step(done + 1)
        return current

    @property
    def num_branches(self) -> int:
        """Guidance branches stacked in a batch: [cond; uncond], or cond alone."""
        return 2 if self.config.guidance_scale > 1 else 1

    def _running(self, controller: DQARController | None) -> Any:
        if isinstance(self.model, DQARDiTWrapper):
            branches = self.num_branches
            return self.model.run(self.scheduler, num_branches=branches, controller=controller)
        if controller is not None:
            raise ValueError(
                "A controller must sit in a patched model. Got a stock one, or one that "
                "follows a plan. Pass the sampler a DQARDiTWrapper of it."
            )
        return (
            self.model.run(self.scheduler) if isinstance(self.model, PlannedDiT) else nullcontext()
        )

    def _noise(self, batch_size: int, generator: torch.Generator | None) -> Tensor:
        config = self.model.config
        shape = (batch_size, config.in_channels, config.sample_size, config.sample_size)
        # By default on the CPU, so that a seed gives the same noise on every device.
        device = "cpu" if generator is None else generator.device
        noise = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
        return noise.to(self.model.device, self.model.dtype)

    def _predict(self, latents: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        rows = torch.cat([latents] * self.num_branches)
        if self.num_branches == 2:
            null_class = self.model.config.num_embeds_ada_norm
            labels = torch.cat([labels, torch.full_like(labels, null_class)])
        rows = self.scheduler.scale_model_input(rows, timestep)
        timesteps = timestep.to(rows.device).expand(len(rows))
        return self.guided(self.model(rows, timestep=timesteps, class_labels=labels).sample)

    def guided(
        self, output: Float[Tensor, "r k height width"]
    ) -> Float[Tensor, "b c height width"]:
        """What the scheduler is given of a stacked batch: its branches combined, without the
        variance that some models learn."""
        noise = output[:, : self.model.config.in_channels]
        if self.num_branches == 1:
            return noise
        cond, uncond = noise.chunk(2)
        return uncond + self.config.guidance_scale * (cond - uncond)


class DQARDDIMSampler(DQARSampler):
    """Samples with DDIM (Song et al. 2021), deterministic; another scheduler lends its noise
    schedule, and one that cannot is refused with ``ValueError``."""

    def __init__(self, model: Any, scheduler: Any, config: SamplerConfig | None = None) -> None:
        from diffusers import DDIMScheduler

        super().__init__(model, convert_scheduler(DDIMScheduler, scheduler), config)


class DQARDPMSolverSampler(DQARSampler):
    """Samples with DPM-Solver++ (Lu et al. 2022), second order, multistep; another scheduler
    lends its noise schedule, and one that cannot is refused with ``ValueError``."""

    def __init__(self, model: Any, scheduler: Any, config: SamplerConfig | None = None) -> None:
        from diffusers import DPMSolverMultistepScheduler

        super().__init__(model, convert_scheduler(DPMSolverMultistepScheduler, scheduler), config)
