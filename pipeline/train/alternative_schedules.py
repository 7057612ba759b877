"""Alternative schedules of a policy, which an evaluation compares with the policy's own plans.

Two labels of damage are available. The final error of a trajectory includes the propagation of a
reuse through later steps, but is one noisy number for each trajectory. The one-step errors of its
reuse decisions are thousands of numbers, but say nothing about propagation. Plans from final errors
have the lower median error, and occasionally a heavy tail; plans from the mean of both log damages
have a lighter tail (docs/LOG.md, 2026-11-22). An evaluation measures both on calibration samples.
"""

from __future__ import annotations

from dataclasses import replace

from dqar.policy.network import ReusePolicy
from dqar.step_schedule import ReuseSetting
from pipeline.train.planning import plans_of


def averaged(one: ReusePolicy, other: ReusePolicy) -> ReusePolicy:
    """Return a policy whose log damage is the mean of those of two policies.

    Only the plans of the result are meaningful: the damage that a fit on one-step errors predicts
    has an arbitrary scale, and so has the mean.

    Raises:
        ValueError: if the policies differ in their number of members or in their features.
    """
    if one.spec.members != other.spec.members or one.spec.features != other.spec.features:
        raise ValueError(
            "Both policies must have the same number of members and the same features. Got "
            f"{one.spec.members} and {other.spec.members} members. Fit both from one specification."
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
    settings: tuple[ReuseSetting, ...],
    max_stretch: float,
) -> ReusePolicy:
    """Return the policy with alternative schedules for each forecast order and gain.

    The alternatives are plans of the policy and plans of its mean with ``local``.

    Args:
        policy: policy with its own plans, fitted on final errors.
        local: policy of the same specification, fitted on one-step errors.
        snrs: signal-to-noise ratio of each step.
        settings: pairs of forecast order and gain.
        max_stretch: see :func:`pipeline.train.planning.planned`.
    """
    spec, mean = policy.spec, averaged(policy, local)
    own = set(spec.schedules)
    found = [
        plan.schedule
        for setting in settings
        for model in (policy, mean)
        for plan in plans_of(model, snrs, setting, max_stretch)
    ]
    return policy.with_spec(rivals=tuple(one for one in dict.fromkeys(found) if one not in own))
