"""The protocol of calibration tasks: work that a method has done on calibration noise samples.

A task is self-contained. A worker of the evaluation calls its ``run``, and task and result know how
to become JSON and arrays and back, so that neither the worker nor the cache on disk knows a type of
task, and a method with a calibration of its own is one file.
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

Arrays = dict[str, np.ndarray]
Stored = dict[str, Any]
"""The part of a result that JSON can hold."""


@runtime_checkable
class SamplingConfig(Protocol):
    """The fields of an evaluation's configuration that calibration tasks read."""

    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def sites(self) -> tuple[str, ...]: ...
    @property
    def cached(self) -> CachedParts: ...


@runtime_checkable
class ModelSampler(Protocol):
    """A loaded model as a calibration task sees it: its noise samples, its sampler, controllers."""

    @property
    def config(self) -> SamplingConfig: ...
    @property
    def model(self) -> LoadedModel: ...

    def draw(self, purpose: Purpose, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Noise samples and labels of a purpose."""
        ...

    def sample(
        self, noise: Tensor, labels: Tensor, steps: int, controller: DQARController | None
    ) -> tuple[Tensor, float]:
        """Final latents and the seconds spent; without a controller, of the stock model."""
        ...

    def sampler(self, model: Any, steps: int) -> DQARSampler:
        """The evaluation's sampler over a transformer."""
        ...

    def controller(
        self,
        gate: Gate,
        forecast_order: int = 0,
        feedback: float = 0.0,
        sink: Callable[[GateRecord], None] | None = None,
    ) -> DQARController:
        """A controller that decides by a gate."""
        ...

    def calibration_references(self, noise_ids: Sequence[int]) -> Tensor:
        """Final latents of calibration noise samples without reuse."""
        ...


@runtime_checkable
class Result(Protocol):
    """The result of a calibration task."""

    def encode(self) -> tuple[Stored, Arrays]:
        """The result as JSON values and arrays."""
        ...


R_co = TypeVar("R_co", bound=Result, covariant=True)


@runtime_checkable
class Task(Protocol[R_co]):
    """One self-contained piece of calibration: a record whose fields say all that it depends on."""

    @property
    def name(self) -> str:
        """Name of its result, unique among the tasks of one call."""
        ...

    @property
    def trajectories(self) -> int:
        """Passes of one sample through all steps of the model, reference samples not counted."""
        ...

    def run(self, sampler: ModelSampler) -> R_co:
        """Do the work, on a worker."""
        ...

    def decode(self, stored: Stored, arrays: Arrays) -> R_co:
        """The result from its encoded form.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: if it is damaged.
        """
        ...
