"""Chi-squared test of logged propensities against logged actions.

A propensity is the probability with which the exploration chose its action; off-policy estimation
divides by it. A stratum holds the random draws of one exploration design at one sampling step. If
the propensities are right, the number of reuses of a stratum less the sum of their probabilities
has mean zero and variance ``sum p(1-p)``. The differences of different steps of a trajectory are
uncorrelated, since each probability is conditional on all earlier steps. The sum of the squared
z-scores over strata therefore follows a chi-squared distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from pipeline.traces.dataset import Traces
from pipeline.traces.trajectory_stream import GateBlock

LEAST_VARIANCE = 5.0
"""Least variance of a tested stratum; below, its sum is too far from normally distributed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stratum:
    """Random draws of one exploration design at one sampling step."""

    design: str
    """Name of the exploration design."""
    step: int
    """Index of the sampling step."""
    draws: int
    """Number of random draws; gates that share a draw count once."""
    excess: float
    """Number of reuses less the sum of their probabilities."""
    variance: float
    """Variance of the excess if the propensities are right; certain actions add 0."""

    @property
    def z(self) -> float:
        """Excess in standard deviations."""
        return self.excess / math.sqrt(self.variance) if self.variance > 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PropensityTest:
    """Result of the chi-squared test over the strata of a dataset."""

    strata: list[Stratum]
    """Strata with a variance of at least :data:`LEAST_VARIANCE`."""

    @property
    def metrics(self) -> dict[str, float]:
        """Number of tested strata; if any, also the chi-squared statistic, its p-value and the
        largest absolute z-score."""
        if not self.strata:
            return {"strata": 0.0}
        scores = np.array([stratum.z for stratum in self.strata])
        total = float(np.square(scores).sum())
        return {
            "strata": float(len(scores)),
            "chi2": total,
            "p": float(chi2.sf(total, len(scores))),
            "max_z": float(np.abs(scores).max()),
        }

    def __str__(self) -> str:
        if not self.strata:
            return (
                "Propensity test (do logged reuse probabilities match logged actions?): not done, "
                "too few random draws in every stratum (exploration design at a sampling step)."
            )
        figures = self.metrics
        return (
            "Propensity test (do logged reuse probabilities match logged actions?): chi-squared "
            f"{figures['chi2']:.1f} over {len(self.strata)} strata, p-value {figures['p']:.3f}; a "
            "p-value near 0 means that they do not."
        )


class PropensitySums:
    """Accumulator of the sums over the random draws of each stratum.

    Draws of several datasets are pooled, which is valid since each has its own probability.
    """

    columns = ("draw_id", "step", "propensity", "action", "eligible")

    def __init__(self, traces: Traces) -> None:
        self._design_of = np.array(traces.trajectories["design"].to_pylist())
        self._designs = np.unique(self._design_of)
        self._sums: dict[tuple[str, int], np.ndarray] = {}

    def add(self, block: GateBlock) -> None:
        """Add the draws of a block to the sums of their strata."""
        draws = _draws(block)
        design = np.searchsorted(self._designs, self._design_of[draws.owner])
        for key, added in _sums(draws, design).items():
            stratum = (str(self._designs[key[0]]), key[1])
            self._sums[stratum] = self._sums.get(stratum, 0.0) + added

    def test(self) -> PropensityTest:
        """Return the test over the strata that are large enough."""
        strata = [
            Stratum(design=design, step=step, draws=round(draws), excess=excess, variance=variance)
            for (design, step), (draws, excess, variance) in sorted(self._sums.items())
        ]
        return PropensityTest(strata=[one for one in strata if one.variance >= LEAST_VARIANCE])


def _draws(block: GateBlock) -> GateBlock:
    """Return one row for each random draw: the first of the eligible gates that share it."""
    eligible = block[block.columns["eligible"]]
    draw = eligible.columns["draw_id"].astype(np.int64)
    place = eligible.owner * (draw.max(initial=0) + 1) + draw
    return eligible[np.unique(place, return_index=True)[1]]


def _sums(draws: GateBlock, design: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Return the number of draws, the excess and its variance, by design and step."""
    columns = draws.columns
    reuse = columns["action"] != "compute"
    of_action = columns["propensity"].astype(float)
    probability = np.where(reuse, of_action, 1.0 - of_action)
    added = np.stack([np.ones(len(reuse)), reuse - probability, probability * (1 - probability)])
    keys, which = np.unique(
        np.stack([design, columns["step"].astype(np.int64)]), axis=1, return_inverse=True
    )
    totals = [np.bincount(which.ravel(), row, keys.shape[1]) for row in added]
    return {
        (int(design), int(step)): total
        for (design, step), total in zip(keys.T, np.stack(totals, axis=1), strict=True)
    }
