"""Plans for a fitted policy: of which order, and which steps compute."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dqar.planner import StepPlan, plan_steps
from dqar.policy import ReusePolicy
from pipeline.dataset import stream_gates

COMPARED = (0.2, 0.5)
"""Shares of computed steps between which orders of forecasts are compared."""


def planned(policy: ReusePolicy, snrs: list[float], orders: tuple[int, ...]) -> ReusePolicy:
    """The policy with plans of the order that it predicts the least error for.

    Args:
        snrs: of each step of the sampler trained for.
        orders: of forecasts, among those that were explored.
    """
    by_order = {order: plan_steps(policy, snrs, order, policy.spec.max_gap) for order in orders}
    best = min(by_order, key=lambda order: _mean_log_error(by_order[order], len(snrs)))
    plans = tuple(plan.computed for plan in by_order[best])
    errors = tuple(plan.error for plan in by_order[best])
    return _with_plans(policy, plans, errors, best)


def snrs_of(uri: str) -> list[float]:
    """SNR of each step, as the gates of a dataset saw it."""
    log_snr: dict[int, float] = {}
    for batch in stream_gates(uri, ["step", "log_snr"]):
        steps, first = np.unique(batch["step"].to_numpy(), return_index=True)
        values = batch["log_snr"].to_numpy(zero_copy_only=False)[first]
        log_snr.update(zip(steps.tolist(), values.tolist(), strict=True))
    return [math.exp(log_snr[step]) for step in sorted(log_snr)]


def _mean_log_error(plans: list[StepPlan], steps: int) -> float:
    low, high = (share * steps for share in COMPARED)
    errors = [plan.error for plan in plans if low <= len(plan.computed) <= high]
    return float(np.mean(np.log(np.maximum(errors, 1e-12)))) if errors else math.inf


def _with_plans(
    policy: ReusePolicy, plans: tuple[tuple[int, ...], ...], errors: tuple[float, ...], order: int
) -> ReusePolicy:
    spec = replace(policy.spec, plans=plans, plan_errors=errors, forecast_order=order)
    changed = ReusePolicy(spec)
    changed.load_state_dict(policy.state_dict())
    return changed.eval().requires_grad_(False)
