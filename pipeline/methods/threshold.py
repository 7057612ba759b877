"""Gates that compare entropy and SNR with thresholds: the DQAR paper's, and one tuned freely."""

from __future__ import annotations

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
"""Most steps since an entry's commit, and most reuses of it."""
OBSERVED = 32
"""Calibration samples that are observed without reuse."""
TUNING_NOISES = 4
"""Calibration samples on which each setting is scored."""
TUNING_BATCH = 96
"""Samples of a task at most; a worker splits it into its own batches."""


class PaperThreshold(Method):
    """The entropy and SNR gate of the DQAR paper, tau swept over quantiles of the entropy."""

    name = "threshold"

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        self._observed = observe(session)
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        grid, entropies = session.comparison.grid, self._observed.entropies
        return threshold_points(grid, session.steps, entropies)


class TunedThreshold(Method):
    """The entropy and SNR gate with window, gap limit and tau chosen on calibration noise."""

    name = "threshold-tuned"

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        grid, observed = session.comparison.grid, observe(session)
        self._points = tuned_sweep(grid, session.steps, observed, session.calibrate)
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        return self._points


def observe(session: Session) -> CalibrationResult:
    """Entropies and SNRs of calibration samples without reuse."""
    task = observing_task()
    return session.calibrate([task])[task.name]


def threshold_points(
    grid: SweepGrid, steps: int, entropies: Float[Tensor, " n"]
) -> list[OperatingPoint]:
    """The DQAR paper's gate in both SNR windows, tau at quantiles of the observed entropy."""
    points = []
    for low, high in PAPER_WINDOWS:
        for quantile in grid.entropy_quantiles:
            # Strictly above the largest entropy seen, the gate lets all of it pass.
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
    """Quantile of the observed entropies; infinite without attention, where none was observed."""
    return float(entropies.quantile(share)) if len(entropies) else float("inf")


def paper_threshold(tau: float, low: float, high: float) -> Gate:
    """The DQAR paper's gate without its layer schedule: warm-up 20%, gap and budget 6."""
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
        RequireCached(),
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
    """For each ratio the setting of least calibration error among those that reach about it."""
    points = []
    for ratio in ratios:
        # Settings whose samples diverged are left out.
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
    """Calibration samples without reuse, whose entropies and SNRs give the thresholds."""
    return CalibrationTask(name="observe", gate=NeverReuse(), num_samples=OBSERVED)


def tuned_sweep(
    grid: SweepGrid, steps: int, observed: CalibrationResult, calibrate: Calibrate
) -> list[OperatingPoint]:
    """The freely tuned gate at the ratios of a grid.

    Args:
        observed: result of :func:`observing_task`.
    """
    options = list(threshold_settings(observed.snrs, observed.entropies))
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
    """All settings side by side, each on the same noise samples."""
    gate = tuned_threshold([one for one in options for _ in range(TUNING_NOISES)])
    return CalibrationTask(
        name=name,
        gate=gate,
        num_samples=len(options) * TUNING_NOISES,
        noise_ids=tuple(range(TUNING_NOISES)) * len(options),
    )
