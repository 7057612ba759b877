"""The methods that an evaluation compares, each swept over operating points.

A sweep's parameter may differ from sample to sample of one batch, so one run on calibration noise
maps a threshold to its reuse ratio. Calibration noise is never evaluated on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from dqar.gates import (
    AllOf,
    Budget,
    Cached,
    EntropyBelow,
    Gate,
    Interval,
    Learned,
    Scheduled,
    Scripted,
    SnrBand,
    Staleness,
    Warmup,
)
from dqar.plan import majority
from dqar.policy import ReusePolicy
from dqar.schedule import LayerSchedule

METHODS = (
    "baseline",
    "fewer-steps",
    "interval",
    "interval-forecast1",
    "interval-forecast2",
    "linear",
    "threshold",
    "threshold-tuned",
    "static",
    "learned",
)
SEED_WINDOWS = ((0.1, 10.0), (0.1, 100.0))
"""SNR windows of the README seed and of the talk."""
SEED_MAX_GAP = 6
SEED_WARMUP = 0.2
PROBES = 64
"""Samples of one calibration batch."""


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
    """What a reuse shows; 0 leaves it to the gate's policy, then to the configuration."""


def fewer_steps_points(grid: Grid, steps: int) -> list[Point]:
    """The same sampler with fewer steps: the baseline that every reuse must beat."""
    kept = [max(1, round(share * steps)) for share in grid.steps]
    return [Point(method="fewer-steps", operating_point=f"steps={few}", steps=few) for few in kept]


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


def threshold_points(grid: Grid, steps: int, entropies: Float[Tensor, " n"]) -> list[Point]:
    """The seed's entropy and SNR gate, tau swept over quantiles of the observed entropy."""
    points = []
    for low, high in SEED_WINDOWS:
        for quantile in grid.entropy_quantiles:
            # Strictly above the largest entropy seen, the gate lets all of it pass.
            tau = float(entropies.quantile(quantile)) * (1.0 + 1e-6)
            points.append(
                Point(
                    method="threshold",
                    operating_point=f"tau=q{quantile:g},snr=[{low:g},{high:g}]",
                    steps=steps,
                    gate=seed_threshold(tau, low, high),
                )
            )
    return points


def seed_threshold(tau: float, low: float, high: float) -> Gate:
    """The seed's gate without its layer schedule: warm-up 20%, gap and budget 6."""
    return AllOf(
        Warmup(SEED_WARMUP),
        Cached(),
        Staleness(SEED_MAX_GAP),
        Budget(SEED_MAX_GAP),
        EntropyBelow(tau),
        SnrBand(low, high),
    )


def probe_thresholds(policy: ReusePolicy) -> Float[Tensor, " b"]:
    """Log thresholds around the policy's own, wide enough for reuse from none to nearly all."""
    return policy.spec.log_threshold + torch.linspace(-9.0, 9.0, PROBES)


def thresholds_for(
    ratios: tuple[float, ...], probed: Float[Tensor, " b"], achieved: Float[Tensor, " b"]
) -> list[float]:
    """Thresholds that reach the ratios, from one probed batch smoothed to be monotone."""
    smooth = IsotonicRegression(out_of_bounds="clip").fit_transform(
        probed.double().numpy(), achieved.double().numpy()
    )
    # np.interp needs strictly growing abscissae; a hair of slope breaks ties.
    slope = np.linspace(0.0, 1e-6, len(smooth))
    return [float(np.interp(ratio, smooth + slope, probed.numpy())) for ratio in ratios]


def learned_points(
    name: str, policy: ReusePolicy, steps: int, thresholds: list[float]
) -> list[Point]:
    """The policy at some thresholds."""
    return [
        Point(
            method=name,
            operating_point=f"log_threshold={threshold:.3f}",
            steps=steps,
            gate=Learned(policy, log_threshold=threshold),
            forecast_order=policy.spec.forecast_order,
        )
        for threshold in thresholds
    ]


def static_point(
    name: str,
    steps: int,
    share: Float[Tensor, "t g"],
    threshold: float,
    forecast_order: int = 0,
) -> Point:
    """The learned policy's majority schedule: one plan for every sample, known before sampling.

    Args:
        forecast_order: the policy's.
    """
    return Point(
        method=name.replace("learned", "static"),
        operating_point=f"majority@{threshold:.3f}",
        steps=steps,
        gate=Scripted(majority(share)[:, :, None]),
        forecast_order=forecast_order,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ThresholdSettings:
    """One setting of the freely tuned threshold gate."""

    low: float
    high: float
    max_gap: int
    tau: float

    def gate(self) -> Gate:
        """The gate of this setting alone."""
        return tuned_threshold([self])


def tuned_threshold(settings: list[ThresholdSettings]) -> Gate:
    """The threshold gate, one setting a sample (or one for all)."""
    column = {
        name: torch.tensor([getattr(setting, name) for setting in settings])
        for name in ("low", "high", "max_gap", "tau")
    }
    return AllOf(
        Cached(),
        Staleness(column["max_gap"]),
        EntropyBelow(column["tau"]),
        SnrBand(column["low"], column["high"]),
    )


def threshold_settings(
    snrs: list[float], entropies: Float[Tensor, " n"]
) -> Iterator[ThresholdSettings]:
    """The grid that ``threshold-tuned`` chooses from: window, gap limit and tau, all free.

    Args:
        snrs: the SNR of each step, growing.
    """
    last = len(snrs) - 1
    lows = [0.0, *(snrs[round(share * last)] * 0.999 for share in (0.06, 0.12, 0.2, 0.3))]
    shares = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    highs = [*(snrs[round(share * last)] * 1.001 for share in shares), float("inf")]
    taus = [float("inf"), float(entropies.quantile(0.75))]
    for low in lows:
        for high in highs:
            for max_gap in (1, 2, 3, 4, 6, 8):
                for tau in taus:
                    yield ThresholdSettings(low=low, high=high, max_gap=max_gap, tau=tau)


def tuned_points(
    ratios: tuple[float, ...],
    steps: int,
    settings: list[ThresholdSettings],
    achieved: Float[Tensor, " s"],
    error: Float[Tensor, " s"],
) -> list[Point]:
    """For each ratio the setting of least calibration error among those that reach about it."""
    points = []
    for ratio in ratios:
        is_near = (achieved - ratio).abs() <= 0.025
        if not is_near.any():
            continue
        best = int(torch.where(is_near, error, torch.inf).argmin())
        chosen = settings[best]
        label = (
            f"snr=[{chosen.low:.3g},{chosen.high:.3g}],gap={chosen.max_gap},tau={chosen.tau:.3g}"
        )
        point = Point(
            method="threshold-tuned", operating_point=label, steps=steps, gate=chosen.gate()
        )
        if all(point.operating_point != other.operating_point for other in points):
            points.append(point)
    return points
