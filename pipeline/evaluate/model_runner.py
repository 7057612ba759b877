"""Model of an evaluation's worker, loaded once and sampled with or without a controller."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dqar.control.controller import DQARController
from dqar.gates.base import Gate
from dqar.integration import (
    DQARDiTWrapper,
    DQARSampler,
    SamplerConfig,
    calibrate_balance,
)
from dqar.records import GateRecord, PartKey
from pipeline.cluster.hardware import device_name, refuse_other_device
from pipeline.evaluate.config import EvaluateConfig
from pipeline.models.loading import LoadedModel, load_model, pick_device
from pipeline.models.model_info import find_model
from pipeline.models.noise import Purpose, draw_noise
from pipeline.models.sampling_choices import Sampler
from pipeline.models.schedulers import load_scheduler, solution_sampler


class ModelRunner:
    """Loads a model once and samples it; implements :class:`pipeline.methods.task.ModelSampler`.

    Args:
        config: settings of the evaluation.
        accelerator_type: type of accelerator that the device must have; None for any.
        model: loaded model to use instead of the model that ``config`` names; it is sampled on the
            device of its weights.

    Raises:
        InputError: if the device is not of the requested accelerator type.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        accelerator_type: str | None = None,
        model: LoadedModel | None = None,
    ) -> None:
        self.config = config
        self.device = pick_device() if model is None else model.transformer.device.type
        refuse_other_device(device_name(self.device), accelerator_type)
        self.model = model or self._load()
        self.balance = self._measure_balance()
        self.wrapper = DQARDiTWrapper(self.model.transformer, config.dqar_config())
        self._references: dict[int, Tensor] = {}
        self._schedulers: dict[str, Any] = {}
        self._solutions: dict[tuple[Purpose, int], Tensor] = {}

    def _load(self) -> LoadedModel:
        config, info = self.config, find_model(self.config.model)
        return load_model(info, sampler=config.sampler, dtype=config.dtype, device=self.device)

    def controller(
        self,
        gate: Gate,
        forecast_order: int = 0,
        feedback: float = 0.0,
        sink: Callable[[GateRecord], None] | None = None,
    ) -> DQARController:
        """Return a controller that decides by a gate.

        Args:
            gate: rule that decides where to reuse.
            forecast_order: order of the forecasts that a reuse shows.
            feedback: gain of the error feedback.
            sink: called with a record of the decisions of each step.
        """
        config = self.config.with_reuse_setting(forecast_order, feedback).dqar_config()
        return DQARController(config, gate=gate, sink=sink, balance=self.balance)

    def sampler(self, model: Any, steps: int, other: Sampler | None = None) -> DQARSampler:
        """Return the evaluation's sampler, or ``other`` in place of it, for a transformer."""
        config = SamplerConfig(num_inference_steps=steps, guidance_scale=self.config.guidance_scale)
        return DQARSampler(model, self.scheduler(other), config)

    def scheduler(self, other: Sampler | None = None) -> Any:
        """Return the scheduler of the evaluation's sampler, or of ``other`` in place of it."""
        if other is None:
            return self.model.scheduler
        if other not in self._schedulers:
            self._schedulers[other] = load_scheduler(self.model.info, other)
        return self._schedulers[other]

    def draw(self, purpose: Purpose, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return the noise samples and class labels of some indices, drawn for one purpose."""
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
        on_step: Callable[[int], None] = lambda done: None,
    ) -> tuple[Tensor, float]:
        """Sample and return the final latents and the seconds spent.

        Args:
            noise: initial latents.
            labels: class labels.
            steps: sampling steps.
            controller: decides where to reuse; None samples the stock (unpatched) model.
            other: sampler to use in place of the evaluation's.
            on_step: called with the number of steps done; its time counts as sampling time.
        """
        model = self.model.transformer if controller is None else self.wrapper
        sampler = self.sampler(model, steps, other)
        self._settle()
        started = time.perf_counter()
        latents = sampler.sample(
            len(noise), labels, latents=noise, controller=controller, on_step=on_step
        )
        self._settle()
        return latents, time.perf_counter() - started

    def calibration_references(self, noise_ids: Sequence[int]) -> Tensor:
        """Return final latents of calibration noise samples without reuse, sampled at most once."""
        missing = [one for one in dict.fromkeys(noise_ids) if one not in self._references]
        if missing:
            noise, labels = self.draw("calibrate", missing)
            latents, _ = self.sample(noise, labels, self.config.steps, None)
            self._references.update(zip(missing, latents, strict=True))
        return torch.stack([self._references[one] for one in noise_ids])

    def solutions(self, purpose: Purpose, indices: list[int]) -> Tensor:
        """Return final latents without reuse by the evaluation's ``solution_steps``, sampled at
        most once; by DDIM, or by the saved scheduler where DDIM cannot take it over."""
        missing = [one for one in indices if (purpose, one) not in self._solutions]
        if missing:
            steps, sampler = self.config.solution_steps, solution_sampler(self.model.info)
            assert steps is not None
            noise, labels = self.draw(purpose, missing)
            latents, _ = self.sample(noise, labels, steps, None, sampler)
            for one, solved in zip(missing, latents, strict=True):
                self._solutions[purpose, one] = solved
        return torch.stack([self._solutions[purpose, one] for one in indices])

    def _measure_balance(self) -> dict[PartKey, Tensor] | None:
        if not self.config.balanced:
            return None
        noise, labels = self.draw("calibrate", list(range(self.config.batch_size)))
        sampler = self.sampler(self.model.transformer, self.config.steps)
        return calibrate_balance(sampler, labels, latents=noise)

    def _settle(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
