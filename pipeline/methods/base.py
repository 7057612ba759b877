"""The methods that an evaluation compares: what a point of a sweep is, and the sweeps that need no
calibration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from dqar.gates.rules import Gate, Interval, Scheduled
from dqar.layer_schedule import LayerSchedule

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
SEED_WARMUP = 0.2
"""Share of the steps in which the seeds reuse nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
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


FINE = Grid()
COARSE = Grid(
    steps=(0.8, 0.6, 0.5),
    periods=(2, 3, 4),
    layer_fractions=(0.5, 1.0),
    entropy_quantiles=(0.5, 1.0),
    reuse_ratios=(0.28, 0.38, 0.48, 0.58, 0.7),
)
GRIDS = {"fine": FINE, "coarse": COARSE}


Kind = Literal["plan", "rival", "even"]
"""A policy's own plan, another that its training made, or as many steps spread evenly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Steps that compute every gate, where all others reuse."""

    kind: Kind
    computed: tuple[int, ...]
    """The steps that compute."""
    forecast_order: int = 0
    """What the others show."""
    feedback: float = 0.0
    """Gain of the error feedback."""

    def mask(self, steps: int) -> Bool[Tensor, " t"]:
        """Where a run of so many steps reuses."""
        reuse = torch.ones(steps, dtype=torch.bool)
        reuse[list(self.computed)] = False
        return reuse


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
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
    schedule: Schedule | None = None
    """What was taken for a policy that plans."""
    sampler: Literal["dpm"] | None = None
    """DPM-Solver++ in the place of the evaluation's sampler, which its twin keeps."""


def fewer_steps_points(grid: Grid, steps: int) -> list[Point]:
    """The same sampler with fewer steps: the baseline that every reuse must beat."""
    kept = [max(1, round(share * steps)) for share in grid.steps]
    return [Point(method="fewer-steps", operating_point=f"steps={few}", steps=few) for few in kept]


def fewer_solver_steps_points(grid: Grid, steps: int) -> list[Point]:
    """A better solver with fewer steps: DPM-Solver++ of second order, from the same noise.

    Its latents differ from the twin's also by the solver's own path: with as many steps as the
    twin it would not end where the twin ends, since the twin's steps err too.
    """
    return [
        replace(point, method="fewer-steps-dpmsolver", sampler="dpm")
        for point in fewer_steps_points(grid, steps)
    ]


def interval_points(grid: Grid, steps: int, forecast_order: int = 0) -> list[Point]:
    """Compute all sites every k-th step (PAB, FORA), and forecast between (TaylorSeer)."""
    return [
        Point(
            method=f"interval-forecast{forecast_order}" if forecast_order else "interval",
            operating_point=f"period={period}",
            steps=steps,
            gate=Interval(period),
            forecast_order=forecast_order,
        )
        for period in grid.periods
    ]


def linear_points(grid: Grid, steps: int) -> list[Point]:
    """The seed's LINEAR layer schedule, which never refreshes."""
    schedules = [
        LayerSchedule(schedule_type="linear", warmup_fraction=SEED_WARMUP, layer_fraction=fraction)
        for fraction in grid.layer_fractions
    ]
    return [
        Point(
            method="linear",
            operating_point=f"layer_fraction={schedule.layer_fraction:g}",
            steps=steps,
            gate=Scheduled(schedule),
        )
        for schedule in schedules
    ]
