"""Samplers of class-conditional DiTs: the arithmetic of diffusers' DiTPipeline without its VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.control.controller import DQARController
from dqar.finite_fields import require_finite
from dqar.integration.compiled.planned_transformer import PlannedDiT
from dqar.integration.dit_wrapper import DQARDiTWrapper
from dqar.integration.noise_schedules import convert_scheduler


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """Number of steps and guidance scale of a sampler."""

    num_inference_steps: int = 50
    """Number of denoising steps."""
    guidance_scale: float = 4.0
    """Scale of classifier-free guidance; 1 or less samples without guidance."""

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ValueError(
                f"num_inference_steps must be at least 1. Got {self.num_inference_steps}. Pass 50."
            )
        require_finite(self, "guidance_scale")


class DQARSampler:
    """A sampler of latents, for a diffusers scheduler that calls the model once a step.

    The model is a :class:`DQARDiTWrapper` (reuse decided by a controller), a :class:`PlannedDiT`
    (reuse by its plan), or an unpatched transformer (no reuse, with the same arithmetic).
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
        """Sample final latents, not decoded by a VAE.

        Args:
            batch_size: number of samples.
            class_labels: class label of each sample.
            latents: initial noise of unit variance; drawn from ``generator`` by default. It is
                multiplied by the scheduler's ``init_noise_sigma``, if the scheduler has one, as
                most diffusers pipelines do. DiTPipeline does not, which is equal for schedulers
                whose ``init_noise_sigma`` is 1.
            generator: source of the initial noise, which is drawn on the generator's device;
                without a generator, on the CPU.
            controller: used in place of the wrapper's controller.
            on_step: called after each step with the number of steps done.

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
        # After set_timesteps, on which init_noise_sigma of some schedulers depends.
        current = current * getattr(self.scheduler, "init_noise_sigma", 1.0)
        with self._running(controller):
            for done, timestep in enumerate(self.scheduler.timesteps):
                noise = self._predict(current, timestep, labels)
                current = self.scheduler.step(noise, timestep, current).prev_sample
                on_step(done + 1)
        return current

    @property
    def num_branches(self) -> int:
        """Number of guidance branches stacked in a batch: 2 for [cond; uncond], 1 for cond."""
        return 2 if self.config.guidance_scale > 1 else 1

    def _running(self, controller: DQARController | None) -> Any:
        if isinstance(self.model, DQARDiTWrapper):
            branches = self.num_branches
            return self.model.run(self.scheduler, num_branches=branches, controller=controller)
        if controller is not None:
            raise ValueError(
                "A controller must sit in a patched model. Got a stock one, or one that "
                "follows a plan. Make the sampler with a DQARDiTWrapper of the model."
            )
        return (
            self.model.run(self.scheduler) if isinstance(self.model, PlannedDiT) else nullcontext()
        )

    def _noise(self, batch_size: int, generator: torch.Generator | None) -> Tensor:
        config = self.model.config
        shape = (batch_size, config.in_channels, config.sample_size, config.sample_size)
        # On the CPU by default, so that a random seed gives the same noise on every device.
        device = "cpu" if generator is None else generator.device
        noise = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
        return noise.to(self.model.device, self.model.dtype)

    def _predict(self, latents: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        rows = torch.cat([latents] * self.num_branches)
        if self.num_branches == 2:
            null_class = self.model.config.num_embeds_ada_norm
            labels = torch.cat([labels, torch.full_like(labels, null_class)])
        if hasattr(self.scheduler, "scale_model_input"):  # which flows leave out
            rows = self.scheduler.scale_model_input(rows, timestep)
        timesteps = timestep.to(rows.device).expand(len(rows))
        return self.guided(self.model(rows, timestep=timesteps, class_labels=labels).sample)

    def guided(
        self, output: Float[Tensor, "r k height width"]
    ) -> Float[Tensor, "b c height width"]:
        """Combine the branches of a batch by classifier-free guidance, and drop the variance
        channels that some models predict."""
        noise = output[:, : self.model.config.in_channels]
        if self.num_branches == 1:
            return noise
        cond, uncond = noise.chunk(2)
        return uncond + self.config.guidance_scale * (cond - uncond)


class DQARDDIMSampler(DQARSampler):
    """A deterministic DDIM sampler (Song et al. 2021). A scheduler of another class is converted to
    DDIM with its noise schedule; ``ValueError`` if DDIM cannot represent that schedule."""

    def __init__(self, model: Any, scheduler: Any, config: SamplerConfig | None = None) -> None:
        from diffusers import DDIMScheduler

        super().__init__(model, convert_scheduler(DDIMScheduler, scheduler), config)


class DQARDPMSolverSampler(DQARSampler):
    """A second-order multistep DPM-Solver++ sampler (Lu et al. 2022). A scheduler of another class
    is converted with its noise schedule; ``ValueError`` if the solver cannot represent it."""

    def __init__(self, model: Any, scheduler: Any, config: SamplerConfig | None = None) -> None:
        from diffusers import DPMSolverMultistepScheduler

        super().__init__(model, convert_scheduler(DPMSolverMultistepScheduler, scheduler), config)
