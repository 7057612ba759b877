"""Plans for a fitted policy: of which order, and which steps compute."""

from __future__ import annotations

import math

import numpy as np

from dqar.policy.network import ReusePolicy
from dqar.policy.planner import plan_steps
from dqar.records import ACTIONS
from dqar.step_schedule import ReuseSetting, ScoredSchedule
from pipeline.train.gate_table import ReusedGates

COMPARED = (0.2, 0.5)
"""Shares of computed steps between which orders of forecasts are compared."""
TIE = 0.1
"""How much more error a lower order may be predicted to end at: it keeps less, and bad histories
spoil it less."""
STRETCH_QUANTILE = 0.99
"""Stretches seen more rarely than this in exploration are unknown to the policy."""


def planned(
    policy: ReusePolicy,
    snrs: list[float],
    settings: tuple[ReuseSetting, ...],
    max_stretch: float = math.inf,
) -> ReusePolicy:
    """The policy with plans of the lowest order that it predicts about the least error for, and of
    the gain that it predicts the least for with that order.

    Args:
        snrs: of each step of the sampler trained for.
        settings: among those that were explored.
        max_stretch: as in :func:`dqar.policy.planner.plan_steps`.
    """
    by_setting = {one: plans_of(policy, snrs, one, max_stretch) for one in settings}
    errors = {one: _mean_log_error(by_setting[one], len(snrs)) for one in settings}
    enough = min(errors.values()) + math.log(1.0 + TIE)
    order = min(one for one, gain in settings if errors[one, gain] <= enough)
    alike = (one for one in settings if one[0] == order)
    best = min(alike, key=errors.__getitem__)
    return policy.with_spec(
        plans=tuple(plan.schedule.computed for plan in by_setting[best]),
        plan_errors=tuple(plan.error for plan in by_setting[best]),
        forecast_order=order,
        feedback=best[1],
        actions=("compute", *ACTIONS[: order + 1]),
    )


def plans_of(
    policy: ReusePolicy, snrs: list[float], setting: ReuseSetting, max_stretch: float
) -> list[ScoredSchedule]:
    """The best plans of one setting; the arguments are those of :func:`planned`."""
    order, gain = setting
    return plan_steps(policy, snrs, order, policy.spec.max_gap, max_stretch, gain)


def max_stretch_of(gates: ReusedGates, names: tuple[str, ...]) -> float:
    """How far, as a multiple of the span before, gates of a dataset were stale.

    Args:
        names: features of the gates.
    """
    ratio = gates.features[:, names.index("log_gap")] - gates.features[:, names.index("log_span")]
    has_span = gates.features[:, names.index("log_span")] >= 0.0
    if not has_span.any():
        return math.inf
    return float(np.quantile(ratio[has_span].exp().numpy(), STRETCH_QUANTILE))


def _mean_log_error(plans: list[ScoredSchedule], steps: int) -> float:
    low, high = (share * steps for share in COMPARED)
    errors = [plan.error for plan in plans if low <= len(plan.schedule) <= high]
    return float(np.mean(np.log(np.maximum(errors, 1e-12)))) if errors else math.inf
