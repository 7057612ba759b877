"""Tasks of an evaluation's workers, and their results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dqar.schedules.static_plan import StaticPlan
from pipeline.evaluate.accumulator import MetricAccumulator
from pipeline.methods.base import OperatingPoint
from pipeline.models.image_metrics import FeatureSums


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalTask:
    """Some samples of a point."""

    point: OperatingPoint
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalTaskResult:
    """What the samples of a part add up to."""

    metrics: MetricAccumulator
    device: str
    """Name of the device that it was measured on."""
    site_share: dict[str, float]
    """Share of a forward's time that each site takes; empty where nothing was timed or gated."""
    real_features: FeatureSums | None = None
    """Of the real images that FID is measured to; None where the model has no features."""
    plan: StaticPlan | None = None
    """What the point's gates do, where a policy planned it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PointResult:
    """One point on the evaluation noise."""

    row: dict[str, Any]
    """The row of results.json."""
    images: np.ndarray
    """The first images, ``[b, height, width, channels]`` in [0, 1]."""
    reference_images: np.ndarray
    plan: StaticPlan | None = None
    """What its gates do, where a policy planned it."""
