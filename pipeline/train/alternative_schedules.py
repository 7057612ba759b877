"""Plans besides a policy's own, which an evaluation compares with it on calibration noise.

The final error of a trajectory knows what becomes of a reuse, and is one noisy number; the one-step
errors of its gates are thousands, and know nothing of what becomes of them. Plans for the first
have the lower median and now and then a heavy tail; plans for the mean of both log damages hedge
against it (docs/LOG.md, 2026-11-22). Which is better at a number of computations, samples say.
"""

from __future__ import annotations

from dataclasses import replace

from dqar.policy.network import ReusePolicy
from dqar.step_schedule import ReuseSetting
from pipeline.train.planning import plans_of


def averaged(one: ReusePolicy, other: ReusePolicy) -> ReusePolicy:
    """The policy whose log damage is the mean of two, each of as many members.

    Only its plans mean anything: the scale of the other's damage, and so of the sum, is arbitrary.
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
    """The policy with plans for each setting: its own, and those of the mean with ``local``, a fit
    on one-step errors.

    Args:
        snrs: as ``settings`` and ``max_stretch``, of :func:`pipeline.train.planning.planned`.
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
