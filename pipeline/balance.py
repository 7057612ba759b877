"""Whether logged propensities are those of the actions that were logged.

Within a stratum (a design at a step) every coin reuses with the probability that its propensity
says, so reuses less their probabilities add up to about nothing, with a variance of ``sum p(1-p)``.
Sums of a trajectory's steps are uncorrelated, as each probability is given what came before, so the
squared z-scores of all strata add up to a chi-squared.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from pipeline.dataset import read_trajectories, stream_gates

LEAST_VARIANCE = 5.0
"""Below it a stratum's sum is too far from normal to be tested."""
COIN = ("trajectory_id", "draw_id", "step", "propensity", "action", "eligible")


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
class Balance:
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


def check_balance(uri: str) -> Balance:
    """Test the propensities of a dataset, stratum by stratum."""
    table = read_trajectories(uri)
    ids = table["trajectory_id"].to_pylist()
    designs = np.array(table["design"].to_pylist())
    coins = _coins(uri, {trajectory_id: place for place, trajectory_id in enumerate(ids)})
    own, steps = designs[coins["owner"]], np.unique(coins["step"]).tolist()
    strata = [
        _stratum(design, step, coins[(own == design) & (coins["step"] == step)])
        for design, step in itertools.product(sorted(set(designs.tolist())), steps)
    ]
    return Balance(strata=[one for one in strata if one.variance >= LEAST_VARIANCE])


def _coins(uri: str, place: dict[str, int]) -> np.ndarray:
    """One row a coin: who threw it, when, how probable reuse was, whether it came."""
    kind = [("owner", "i8"), ("draw", "i8"), ("step", "i8"), ("reuse", "f8"), ("probability", "f8")]
    parts = []
    for batch in stream_gates(uri, list(COIN)):
        wanted = batch["eligible"].to_numpy(zero_copy_only=False)
        part = np.zeros(len(wanted), dtype=kind)
        part["owner"] = [place[owner] for owner in batch["trajectory_id"].to_pylist()]
        part["draw"], part["step"] = batch["draw_id"].to_numpy(), batch["step"].to_numpy()
        part["reuse"] = np.array(batch["action"].to_pylist()) != "compute"
        of_action = batch["propensity"].to_numpy().astype(float)
        part["probability"] = np.where(part["reuse"] > 0, of_action, 1.0 - of_action)
        parts.append(part[wanted])
    coins = np.concatenate(parts)
    return coins[np.unique(coins[["owner", "draw"]], return_index=True)[1]]


def _stratum(design: str, step: int, coins: np.ndarray) -> Stratum:
    probability = coins["probability"]
    return Stratum(
        design=design,
        step=step,
        coins=len(coins),
        excess=float((coins["reuse"] - probability).sum()),
        variance=float((probability * (1.0 - probability)).sum()),
    )
