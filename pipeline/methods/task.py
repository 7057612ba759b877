"""Protocol of calibration tasks: work on calibration noise samples that a method needs.

A task is self-contained: a worker of the evaluation calls its ``run``. A result encodes itself as
JSON and arrays, and its task decodes it. So neither the worker nor the cache on disk depends on the
type of a task, and a method with its own calibration is one file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dqar.config import CachedParts
from dqar.control.controller import DQARController
from dqar.gates.base import Gate
from dqar.integration import DQARSampler
from dqar.records import GateRecord
from pipeline.models.loading import LoadedModel
from pipeline.models.noise import Purpose, batches_of
from pipeline.models.sampling_choices import Sampler

Arrays = dict[str, np.ndarray]
"""Arrays of a result, by name."""
Stored = dict[str, Any]
"""Values of a result that are written as JSON, by name."""


@runtime_checkable
class SamplingConfig(Protocol):
    """Fields of an evaluation's configuration that calibration tasks read."""

    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def sites(self) -> tuple[str, ...]: ...
    @property
    def cached(self) -> CachedParts: ...
    @property
    def solution_steps(self) -> int | None: ...


@runtime_checkable
class ModelSampler(Protocol):
    """Loaded model with noise samples, samplers and controllers, as calibration tasks use it."""

    @property
    def config(self) -> SamplingConfig: ...
    @property
    def model(self) -> LoadedModel: ...

    def draw(self, purpose: Purpose, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return the noise samples and class labels of some indices, drawn for one purpose."""
        ...

    def sample(
        self,
        noise: Tensor,
        labels: Tensor,
        steps: int,
        controller: DQARController | None,
        other: Sampler | None = None,
    ) -> tuple[Tensor, float]:
        """Return the final latents and the seconds spent; no controller runs the stock model, and
        ``other`` is a sampler in place of the evaluation's."""
        ...

    def sampler(self, model: Any, steps: int) -> DQARSampler:
        """Return the evaluation's sampler with a number of steps, for a transformer."""
        ...

    def controller(
        self,
        gate: Gate,
        forecast_order: int = 0,
        feedback: float = 0.0,
        sink: Callable[[GateRecord], None] | None = None,
    ) -> DQARController:
        """Return a controller that decides by a gate."""
        ...

    def solutions(self, purpose: Purpose, indices: list[int]) -> Tensor:
        """Return final latents of noise samples by the evaluation's ``solution_steps``."""
        ...

    def calibration_references(self, noise_ids: Sequence[int]) -> Tensor:
        """Return the final latents of calibration noise samples, sampled without reuse."""
        ...


@runtime_checkable
class Result(Protocol):
    """Result of a calibration task."""

    def encode(self) -> tuple[Stored, Arrays]:
        """Return the result as JSON values and arrays."""
        ...


R_co = TypeVar("R_co", bound=Result, covariant=True)


@runtime_checkable
class Task(Protocol[R_co]):
    """Self-contained piece of calibration: a record whose fields hold everything it depends on."""

    @property
    def name(self) -> str:
        """Name of the result, unique among the tasks of one call."""
        ...

    @property
    def trajectories(self) -> int:
        """Passes of one sample through all sampling steps; reference samples are not counted."""
        ...

    @property
    def references(self) -> frozenset[int]:
        """Indices of the calibration noise samples whose reference samples the task needs."""
        ...

    def run(self, sampler: ModelSampler) -> R_co:
        """Run the calibration on a worker and return its result."""
        ...

    def decode(self, stored: Stored, arrays: Arrays) -> R_co:
        """Rebuild a result from its encoded form.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: if the encoded form is damaged.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Solutions:
    """Final latents of some noise samples, solved by many steps."""

    latents: Tensor
    """Final latents in the order of the samples, in fp32 on the CPU."""

    def encode(self) -> tuple[Stored, Arrays]:
        """Return the result as JSON values and arrays."""
        return {}, {"latents": self.latents.numpy()}


@dataclass(frozen=True, kw_only=True, slots=True)
class SolutionTask:
    """Solution of some noise samples by the evaluation's ``solution_steps``, without reuse.

    The reference samples have the evaluation's sampler and steps, and so its discretization error
    too. The distance to a solution says how well a method solves the model's equation, so that
    methods over different samplers and numbers of steps can be compared.
    """

    purpose: Purpose
    """Purpose of the noise samples."""
    noise_ids: tuple[int, ...]
    """Indices of the noise samples."""
    trajectories: int = 0
    """Cost in passes of one sample through all steps of the evaluation; 0 of evaluation samples,
    which are no calibration."""

    @property
    def name(self) -> str:
        """Name of the result."""
        return f"{self.purpose} solutions of {self.noise_ids[0]} to {self.noise_ids[-1]}"

    @property
    def references(self) -> frozenset[int]:
        """No reference samples."""
        return frozenset()

    def run(self, sampler: ModelSampler) -> Solutions:
        """Solve the samples on a worker, batch by batch."""
        batches = batches_of(len(self.noise_ids), sampler.config.batch_size)
        solved = [
            sampler.solutions(self.purpose, list(self.noise_ids[rows.start : rows.stop]))
            for rows in batches
        ]
        return Solutions(latents=torch.cat(solved).float().cpu())

    def decode(self, stored: Stored, arrays: Arrays) -> Solutions:
        """Rebuild a result from its encoded form.

        Raises:
            ValueError, KeyError: if the encoded form is damaged.
        """
        latents = torch.from_numpy(arrays["latents"])
        if len(latents) != len(self.noise_ids):
            raise ValueError(f"latents must be {len(self.noise_ids)}. Got {len(latents)}.")
        return Solutions(latents=latents)
