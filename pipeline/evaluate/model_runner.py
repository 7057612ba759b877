"""What an evaluation's worker samples with: a model, its noise, and controllers for it."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from dqar.control.controller import DQARController
from dqar.gates.base import Gate
from dqar.integration import (
    DQARDiTWrapper,
    DQARDPMSolverSampler,
    DQARSampler,
    SamplerConfig,
    calibrate_balance,
)
from dqar.records import PartKey
from pipeline.cluster.hardware import device_name, refuse_other_device
from pipeline.evaluate.config import EvaluateConfig
from pipeline.models.loading import Sampler, load_model, pick_device
from pipeline.models.model_info import find_model
from pipeline.models.noise import Purpose, draw_noise


class Runner:
    """Loads a model once, then samples it, with a controller or as it is.

    Raises:
        Refusal: if the device is not of the accelerator type asked for.
    """

    def __init__(self, config: EvaluateConfig, accelerator_type: str | None = None) -> None:
        self.config = config
        self.device = pick_device()
        refuse_other_device(device_name(self.device), accelerator_type)
        info = find_model(config.model)
        self.model = load_model(
            info, sampler=config.sampler, dtype=config.dtype, device=self.device
        )
        self.balance = self._calibrate()
        self.wrapper = DQARDiTWrapper(self.model.transformer, config.dqar_config())

    def controller(self, config: EvaluateConfig, gate: Gate, sink: Any = None) -> DQARController:
        """A controller of a gate.

        Args:
            sink: given what each step's gates saw and did.
        """
        return DQARController(config.dqar_config(), gate=gate, sink=sink, balance=self.balance)

    def sampler(self, model: Any, steps: int, other: Sampler | None = None) -> DQARSampler:
        """The evaluation's sampler, or ``other`` in its place, over a transformer."""
        config = SamplerConfig(num_inference_steps=steps, guidance_scale=self.config.guidance_scale)
        kind = DQARDPMSolverSampler if other == "dpm" else DQARSampler
        return kind(model, self.model.scheduler, config)

    def draw(self, purpose: Purpose, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Noise and labels of a purpose, on the device."""
        info = self.model.info
        noise, labels = draw_noise(
            purpose, self.config.seed, indices, info.latent_shape, info.num_classes
        )
        dtype = self.model.transformer.dtype
        return noise.to(self.device, dtype), labels.to(self.device)

    def sample(
        self,
        noise: Tensor,
        labels: Tensor,
        steps: int,
        controller: DQARController | None,
        other: Sampler | None = None,
    ) -> tuple[Tensor, float]:
        """Final latents, and the seconds that they took; without a controller, of the stock
        model."""
        model = self.model.transformer if controller is None else self.wrapper
        sampler = self.sampler(model, steps, other)
        self._settle()
        started = time.perf_counter()
        latents = sampler.sample(len(noise), labels, latents=noise, controller=controller)
        self._settle()
        return latents, time.perf_counter() - started

    def _calibrate(self) -> dict[PartKey, Tensor] | None:
        if not self.config.balanced:
            return None
        noise, labels = self.draw("calibrate", list(range(self.config.batch_size)))
        sampler = self.sampler(self.model.transformer, self.config.steps)
        return calibrate_balance(sampler, labels, latents=noise)

    def _settle(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
