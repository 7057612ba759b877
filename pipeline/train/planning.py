"""Plans of a fitted policy: computed steps, forecast order and gain of the error feedback."""

from __future__ import annotations

import math

import numpy as np

from dqar.policy.network import ReusePolicy
from dqar.policy.planner import plan_steps
from dqar.records import ACTIONS
from dqar.step_schedule import ReuseSetting, ScoredSchedule
from pipeline.train.gate_table import ReusedGates

COMPARED = (0.2, 0.5)
"""Shares of computed steps between which forecast orders are compared."""
TIE = 0.1
"""Relative excess of predicted error at which a lower forecast order is still preferred. A lower
order caches fewer past values and amplifies errors in them less."""
STRETCH_QUANTILE = 0.99
"""Quantile of the stretch in the traces up to which plans may go. Larger stretches were explored
too rarely to be learned."""


def planned(
    policy: ReusePolicy,
    snrs: list[float],
    settings: tuple[ReuseSetting, ...],
    max_stretch: float = math.inf,
) -> ReusePolicy:
    """Return the policy with its plans.

    The forecast order is the lowest whose predicted error is within :data:`TIE` of the smallest;
    the gain is the one with the smallest predicted error at that order.

    Args:
        policy: fitted policy.
        snrs: signal-to-noise ratio of each step of the sampler.
        settings: pairs of forecast order and gain to choose from, all of which were explored.
        max_stretch: see :func:`dqar.policy.planner.plan_steps`.
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
    """Return the best plans for one pair of forecast order and gain (see :func:`planned`)."""
    order, gain = setting
    return plan_steps(policy, snrs, order, policy.spec.max_gap, max_stretch, gain)


def max_stretch_of(gates: ReusedGates, names: tuple[str, ...]) -> float:
    """Return the largest stretch up to which plans may go, infinity if no gate has a span.

    The stretch of a reused gate is its gap (the steps since the site computed) divided by its span
    (the steps between the last two computations).

    Args:
        gates: reused gates of a dataset.
        names: features of the gates, with ``log_gap`` and ``log_span``.
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
