"""The methods that an evaluation compares: what a point of a sweep is, and the sweeps that need no
calibration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dqar.gates.base import Gate
from dqar.policy.network import ReusePolicy
from dqar.step_schedule import StepSchedule
from pipeline.methods.calibration import CalibrationResult, CalibrationTask

METHODS = (
    "baseline",
    "fewer-steps",
    "fewer-steps-dpmsolver",
    "interval",
    "interval-forecast1",
    "interval-forecast2",
    "linear",
    "threshold",
    "threshold-tuned",
    "smoothcache",
    "smoothcache-tied",
    "router",
    "static",
    "learned",
)
PAPER_WARMUP = 0.2
"""Share of the steps in which the seeds reuse nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepGrid:
    """Where each sweep is sampled. Sweeps are compared at equal reuse or FLOPs by interpolation."""

    steps: tuple[float, ...] = (0.9, 0.8, 0.66, 0.6, 0.5, 0.4, 0.34, 0.25)
    """Shares of the steps that ``fewer-steps`` keeps."""
    periods: tuple[int, ...] = (2, 3, 4, 5, 6)
    """Periods of ``interval``."""
    layer_fractions: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Layer fractions of ``linear``."""
    entropy_quantiles: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    """Quantiles of the observed entropy that ``threshold`` takes for tau."""
    reuse_ratios: tuple[float, ...] = tuple(
        percent / 100 for percent in (20, 28, 32, 40, 48, 52, 60, 66, 72, 78, 82)
    )
    """Reuse ratios that calibrated sweeps aim at."""


FINE = SweepGrid()
COARSE = SweepGrid(
    steps=(0.8, 0.6, 0.5),
    periods=(2, 3, 4),
    layer_fractions=(0.5, 1.0),
    entropy_quantiles=(0.5, 1.0),
    reuse_ratios=(0.28, 0.38, 0.48, 0.58, 0.7),
)
GRIDS = {"fine": FINE, "coarse": COARSE}
ScheduleSource = Literal["plan", "rival", "even"]
"""A policy's own plan, another that its training made, or as many steps spread evenly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """One method at one operating point."""

    method: str
    operating_point: str
    """What distinguishes it within the sweep."""
    steps: int
    gate: Gate | None = None
    """None samples without reuse."""
    forecast_order: int = 0
    """What a reuse shows: the cached value, or its forecast of this order."""
    feedback: float = 0.0
    """Gain of the error feedback."""
    schedule: StepSchedule | None = None
    """The schedule that was taken for a policy that plans."""
    schedule_source: ScheduleSource | None = None
    """The origin of that schedule."""
    sampler: Literal["dpm"] | None = None
    """DPM-Solver++ in the place of the evaluation's sampler, which its twin keeps."""


Calibrate = Callable[[list[CalibrationTask]], dict[str, CalibrationResult]]
"""Answers probes on calibration noise, by their names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Which methods meet, with which policies, on which grid."""

    methods: tuple[str, ...]
    policies: dict[str, ReusePolicy]
    """Method name (``learned`` or ``learned-NAME``) to policy."""
    grid: SweepGrid
    error_budget: float | None = None
    """Relative L2 error within which each policy is to save the most: one more point."""

    def __post_init__(self) -> None:
        budget = self.error_budget
        if budget is None:
            return
        if not (math.isfinite(budget) and budget > 0):
            raise ValueError(f"error_budget must be a positive number. Got {budget}. Pass 0.01.")
        if not self.policies or "learned" not in self.methods:
            raise ValueError(
                f"error_budget must come with a policy and the method learned. Got {self.methods} "
                f"and {len(self.policies)} policies. Pass --policy, or leave --error-budget out."
            )


def budget_label(error_budget: float) -> str:
    """The operating point of an error budget."""
    return f"budget={error_budget:g}"
