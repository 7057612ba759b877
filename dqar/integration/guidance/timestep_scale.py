"""The scales in which pipelines pass their scheduler's timesteps to the transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ULPS = 2
"""Roundings between the scheduler's timestep and the number that the transformer is called with."""
NUM_TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class TimestepScale:
    """A function of the scheduler's timestep t; N is the number of training timesteps."""

    formula: str
    of: Callable[[Tensor, float], Tensor]
    is_exact: bool = False
    """True if nothing but the timestep's rounding to another dtype lies in between."""
    magnitude: float = 0.0
    """Magnitude of intermediate results, whose rounding shows in small ones."""

    def distance(self, given: float, entry: float, dtype: torch.dtype, num_train: float) -> float:
        """Distance of a call's timestep to one of the schedule, in units of the rounding that is
        allowed: at most 1 if they are the same."""
        scaled = float(self.of(torch.tensor(entry).to(dtype), num_train))
        if self.is_exact:
            return 0.0 if given in (entry, scaled) else float("inf")
        size = max(abs(given), abs(scaled), self.magnitude)
        return abs(given - scaled) / (ULPS * torch.finfo(dtype).eps * size or 1.0)


SCALES = (
    TimestepScale(formula="t", of=lambda t, _: t, is_exact=True),
    TimestepScale(formula="t / N", of=lambda t, n: t / n),
    TimestepScale(formula="1 - t / N", of=lambda t, n: 1 - t / n, magnitude=1.0),
    TimestepScale(formula="sin t / (sin t + cos t)", of=lambda t, _: t.sin() / (t.sin() + t.cos())),
)
"""Scales of the pipelines of diffusers, in the order in which they are tried."""


def num_train_timesteps(scheduler: Any) -> float:
    """Number of training timesteps of a scheduler; 1000 if it says none."""
    config = getattr(scheduler, "config", {})
    return float(config.get("num_train_timesteps", NUM_TRAIN_TIMESTEPS) or NUM_TRAIN_TIMESTEPS)


def scales_of(dtype: torch.dtype | None) -> tuple[TimestepScale, ...]:
    """Scales that a timestep of some dtype (None: a Python number) may have."""
    is_whole = dtype is not None and not dtype.is_floating_point
    return SCALES[:1] if is_whole else SCALES
