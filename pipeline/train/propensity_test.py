"""Whether logged propensities are those of the actions that were logged.

Within a stratum (a design at a step) every coin reuses with the probability that its propensity
says, so reuses less their probabilities add up to about nothing, with a variance of ``sum p(1-p)``.
Sums of a trajectory's steps are uncorrelated, as each probability is given what came before, so the
squared z-scores of all strata add up to a chi-squared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from pipeline.traces.dataset import TraceUris
from pipeline.traces.tables import read_trajectories
from pipeline.traces.trajectory_stream import GateBlock, whole_trajectories

LEAST_VARIANCE = 5.0
"""Below it a stratum's sum is too far from normal to be tested."""
COIN = ("draw_id", "step", "propensity", "action", "eligible")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stratum:
    """The coins of one design at one step."""

    design: str
    step: int
    coins: int
    """Thrown in it; gates that share a coin count once."""
    excess: float
    """Reuses less the sum of their probabilities."""
    variance: float
    """Of the excess, if the propensities are right; certain actions add nothing."""

    @property
    def z(self) -> float:
        """The excess in standard deviations."""
        return self.excess / math.sqrt(self.variance) if self.variance > 0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PropensityTest:
    """The strata of a dataset that are large enough to be tested."""

    strata: list[Stratum]

    @property
    def metrics(self) -> dict[str, float]:
        """Strata tested and, if any, the sum of their squared z-scores, its p-value, and the
        largest z-score either way."""
        if not self.strata:
            return {"balance_strata": 0.0}
        scores = np.array([stratum.z for stratum in self.strata])
        total = float(np.square(scores).sum())
        return {
            "balance_strata": float(len(scores)),
            "balance_chi2": total,
            "balance_p": float(chi2.sf(total, len(scores))),
            "balance_max_z": float(np.abs(scores).max()),
        }

    def __str__(self) -> str:
        if not self.strata:
            return "balance of propensities: too few coins to test"
        figures = self.metrics
        return (
            f"balance of propensities: chi^2 {figures['balance_chi2']:.1f} over "
            f"{len(self.strata)} strata, p {figures['balance_p']:.3f}"
        )


def check_propensities(uri: TraceUris) -> PropensityTest:
    """Test the propensities of a dataset, stratum by stratum. Coins of several datasets are
    pooled: each was thrown with its own probability."""
    own = np.array(read_trajectories(uri)["design"].to_pylist())
    designs = np.unique(own)
    sums: dict[tuple[str, int], np.ndarray] = {}
    for block in whole_trajectories(uri, list(COIN)):
        coins = _coins(block)
        design = np.searchsorted(designs, own[coins.owner])
        for key, added in _sums(coins, design).items():
            stratum = (str(designs[key[0]]), key[1])
            sums[stratum] = sums.get(stratum, 0.0) + added
    strata = [
        Stratum(design=design, step=step, coins=round(coins), excess=excess, variance=variance)
        for (design, step), (coins, excess, variance) in sorted(sums.items())
    ]
    return PropensityTest(strata=[one for one in strata if one.variance >= LEAST_VARIANCE])


def _coins(block: GateBlock) -> GateBlock:
    """One row a coin: those that could be thrown, and of gates that share one the first."""
    thrown = block[block.columns["eligible"]]
    draw = thrown.columns["draw_id"].astype(np.int64)
    place = thrown.owner * (draw.max(initial=0) + 1) + draw
    return thrown[np.unique(place, return_index=True)[1]]


def _sums(coins: GateBlock, design: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Coins, reuses less their probabilities, and the variance of that, by design and step."""
    columns = coins.columns
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
