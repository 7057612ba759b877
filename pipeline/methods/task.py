"""Protocol of calibration tasks: work on calibration noise samples that a method needs.

A task is self-contained: a worker of the evaluation calls its ``run``. A result encodes itself as
JSON and arrays, and its task decodes it. So neither the worker nor the cache on disk depends on the
type of a task, and a method with its own calibration is one file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from torch import Tensor

from dqar.config import CachedParts
from dqar.control.controller import DQARController
from dqar.gates.base import Gate
from dqar.integration import DQARSampler
from dqar.records import GateRecord
from pipeline.models.loading import LoadedModel
from pipeline.models.noise import Purpose
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

    def run(self, sampler: ModelSampler) -> R_co:
        """Run the calibration on a worker and return its result."""
        ...

    def decode(self, stored: Stored, arrays: Arrays) -> R_co:
        """Rebuild a result from its encoded form.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: if the encoded form is damaged.
        """
        ...
