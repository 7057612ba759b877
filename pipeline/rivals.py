"""Plans besides a policy's own, which an evaluation compares with it on calibration noise.

The final error of a trajectory knows what becomes of a reuse, and is one noisy number; the one-step
errors of its gates are thousands, and know nothing of what becomes of them. Plans for the first
have the lower median and now and then a heavy tail; plans for the mean of both log damages hedge
against it (docs/LOG.md, 2026-11-22). Which is better at a number of computations, samples say.
"""

from __future__ import annotations

from dataclasses import replace

from dqar.planner import plan_steps
from dqar.policy import ReusePolicy


def averaged(one: ReusePolicy, other: ReusePolicy) -> ReusePolicy:
    """The policy whose log damage is the mean of two, each of as many members.

    Only its plans mean anything: the scale of the other's damage, and so of the sum, is arbitrary.
    """
    if one.spec.members != other.spec.members or one.spec.features != other.spec.features:
        raise ValueError(
            "Policies must have as many members and the same features. Got "
            f"{one.spec.members} and {other.spec.members}. Fit both from one specification."
        )
    spec = replace(one.spec, members=2 * one.spec.members, plans=(), plan_errors=(), rivals=())
    policy = ReusePolicy(spec)
    for network, source in zip(policy.networks, [*one.networks, *other.networks], strict=True):
        network.load_state_dict(source.state_dict())
    return policy.eval().requires_grad_(False)


def with_rivals(
    policy: ReusePolicy,
    local: ReusePolicy,
    snrs: list[float],
    orders: tuple[int, ...],
    max_stretch: float,
) -> ReusePolicy:
    """The policy with plans by order of forecasts: its own for lower orders, and for each order
    those of the mean with ``local``, a fit on one-step errors.

    Args:
        snrs: as ``orders`` and ``max_stretch``, of :func:`pipeline.planning.planned`.
    """
    mean, rivals = averaged(policy, local), []
    for order in range(policy.spec.forecast_order + 1):
        is_own = order == policy.spec.forecast_order
        models = () if order not in orders else (mean,) if is_own else (policy, mean)
        found = [
            plan.computed
            for model in models
            for plan in plan_steps(model, snrs, order, policy.spec.max_gap, max_stretch)
        ]
        known = set(policy.spec.plans) if is_own else set()
        rivals.append(tuple(plan for plan in dict.fromkeys(found) if plan not in known))
    return policy.with_spec(rivals=tuple(rivals))
