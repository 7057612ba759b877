"""Gates that compare attention entropy and signal-to-noise ratio (SNR) with thresholds.

``threshold`` is the DQAR paper's gate; in ``threshold-tuned`` all its settings are tuned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dqar.gates.base import AllOf, Gate
from dqar.gates.rules import (
    EntropyBelow,
    MaxReuses,
    NeverReuse,
    RequireCached,
    SnrBand,
    Staleness,
    Warmup,
)
from pipeline.methods.base import (
    PAPER_WARMUP,
    Calibrate,
    CalibrationBudget,
    CalibrationCost,
    Method,
    OperatingPoint,
    Session,
    SweepGrid,
)
from pipeline.methods.calibration import CalibrationResult, CalibrationTask

PAPER_WINDOWS = ((0.1, 10.0), (0.1, 100.0))
"""SNR windows of the DQAR paper and of the DQAR talk."""
PAPER_MAX_GAP = 6
"""Most steps since a value was cached, and most reuses of that value."""
OBSERVED = 32
"""Calibration samples that are run without reuse to observe entropies and SNRs."""
TUNING_NOISES = 4
"""Calibration samples on which each setting is scored."""
TUNING_BATCH = 96
"""Most samples of one calibration task; a worker splits them into its own batches."""


class PaperThreshold(Method):
    """Entropy and SNR gate of the DQAR paper, with tau at quantiles of the observed entropy."""

    name = "threshold"

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        self._observed = observe(session)
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        grid, entropies = session.comparison.grid, self._observed.entropies
        return threshold_points(grid, session.steps, entropies)


class TunedThreshold(Method):
    """Entropy and SNR gate with SNR window, gap limit and tau chosen on calibration noise."""

    name = "threshold-tuned"

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        grid, observed = session.comparison.grid, observe(session)
        trajectories = budget.trajectories(session.steps, references=OBSERVED)
        at_most = None if trajectories is None else (trajectories - OBSERVED) // TUNING_NOISES
        self._points = tuned_sweep(grid, session.steps, observed, session.calibrate, at_most)
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        return self._points


def observe(session: Session) -> CalibrationResult:
    """Measure entropies and SNRs of calibration samples without reuse."""
    task = observing_task()
    return session.calibrate([task])[task.name]


def threshold_points(
    grid: SweepGrid, steps: int, entropies: Float[Tensor, " n"]
) -> list[OperatingPoint]:
    """Return the operating points of the DQAR paper's gate: each SNR window with each quantile."""
    points = []
    for low, high in PAPER_WINDOWS:
        for quantile in grid.entropy_quantiles:
            # The gate passes entropies strictly below tau, so that quantile 1 needs the margin.
            tau = _quantile(entropies, quantile) * (1.0 + 1e-6)
            points.append(
                OperatingPoint(
                    method="threshold",
                    operating_point=f"tau=q{quantile:g},snr=[{low:g},{high:g}]",
                    steps=steps,
                    gate=paper_threshold(tau, low, high),
                )
            )
    return points


def _quantile(entropies: Float[Tensor, " n"], share: float) -> float:
    """Return a quantile of the observed entropies; infinity if no site has an attention."""
    return float(entropies.quantile(share)) if len(entropies) else float("inf")


def paper_threshold(tau: float, low: float, high: float) -> Gate:
    """Return the DQAR paper's gate without its layer schedule.

    The first 20% of the steps compute; a cached value is reused at most 6 times and within 6 steps.

    Args:
        tau: entropy in nats below which a gate may reuse.
        low: lower end of the SNR window.
        high: upper end of the SNR window.
    """
    return AllOf(
        Warmup(PAPER_WARMUP),
        RequireCached(),
        Staleness(PAPER_MAX_GAP),
        MaxReuses(PAPER_MAX_GAP),
        EntropyBelow(tau),
        SnrBand(low, high),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ThresholdSettings:
    """One setting of the tuned threshold gate."""

    low: float
    """Lower end of the SNR window in which a gate may reuse."""
    high: float
    """Upper end of that window."""
    max_gap: int
    """Most steps since the value was cached."""
    tau: float
    """Entropy threshold in nats: a gate may reuse below it."""

    def gate(self) -> Gate:
        """Return the gate with this setting for all samples."""
        return tuned_threshold([self])


def tuned_threshold(settings: list[ThresholdSettings]) -> Gate:
    """Return the threshold gate with one setting for each sample, or one for all samples."""
    column = {
        name: torch.tensor([getattr(setting, name) for setting in settings])
        for name in ("low", "high", "max_gap", "tau")
    }
    return AllOf(
        RequireCached(),
        Staleness(column["max_gap"]),
        EntropyBelow(column["tau"]),
        SnrBand(column["low"], column["high"]),
    )


def threshold_settings(
    snrs: list[float], entropies: Float[Tensor, " n"]
) -> Iterator[ThresholdSettings]:
    """Yield the settings that ``threshold-tuned`` chooses from, all combinations of a grid.

    Args:
        snrs: SNR of each step, increasing.
        entropies: observed entropies in nats.
    """
    last = len(snrs) - 1
    lows = [0.0, *(snrs[round(share * last)] * 0.999 for share in (0.06, 0.12, 0.2, 0.3))]
    shares = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    highs = [*(snrs[round(share * last)] * 1.001 for share in shares), float("inf")]
    taus = [float("inf"), _quantile(entropies, 0.75)]
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
) -> list[OperatingPoint]:
    """Return, for each reuse ratio, the setting of smallest error among those near the ratio.

    Args:
        achieved: reuse ratio of each setting; near is within 0.025.
        error: relative L2 error of each setting on calibration noise.
    """
    points = []
    for ratio in ratios:
        # Samples that diverged have no finite error.
        is_near = ((achieved - ratio).abs() <= 0.025) & error.isfinite()
        if not is_near.any():
            continue
        best = int(torch.where(is_near, error, torch.inf).argmin())
        chosen = settings[best]
        label = (
            f"snr=[{chosen.low:.3g},{chosen.high:.3g}],gap={chosen.max_gap},tau={chosen.tau:.3g}"
        )
        point = OperatingPoint(
            method="threshold-tuned", operating_point=label, steps=steps, gate=chosen.gate()
        )
        if all(point.operating_point != other.operating_point for other in points):
            points.append(point)
    return points


def observing_task() -> CalibrationTask:
    """Return the task that observes entropies and SNRs of calibration samples without reuse."""
    return CalibrationTask(name="observe", gate=NeverReuse(), num_samples=OBSERVED)


def tuned_sweep(
    grid: SweepGrid,
    steps: int,
    observed: CalibrationResult,
    calibrate: Calibrate,
    at_most: int | None = None,
) -> list[OperatingPoint]:
    """Tune the threshold gate for each reuse ratio of a grid.

    Args:
        observed: result of :func:`observing_task`.
        calibrate: runs calibration tasks.
        at_most: most settings to score, taken evenly from all; None for all.
    """
    options = list(threshold_settings(observed.snrs, observed.entropies))
    if at_most is not None:
        options = options[:: math.ceil(len(options) / max(1, at_most))]
    per_batch = TUNING_BATCH // TUNING_NOISES
    tasks = [
        _tuning_task(options[start : start + per_batch], f"{start:06d}")
        for start in range(0, len(options), per_batch)
    ]
    results = [result for _, result in sorted(calibrate(tasks).items())]
    achieved = torch.cat([result.reuse_ratio for result in results]).view(-1, TUNING_NOISES)
    error = torch.cat([result.error for result in results]).view(-1, TUNING_NOISES)
    return tuned_points(grid.reuse_ratios, steps, options, achieved.mean(dim=1), error.mean(dim=1))


def _tuning_task(options: list[ThresholdSettings], name: str) -> CalibrationTask:
    """Return one task that runs all settings, each on the same noise samples."""
    gate = tuned_threshold([one for one in options for _ in range(TUNING_NOISES)])
    return CalibrationTask(
        name=name,
        gate=gate,
        num_samples=len(options) * TUNING_NOISES,
        noise_ids=tuple(range(TUNING_NOISES)) * len(options),
    )
