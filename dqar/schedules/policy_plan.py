"""Static plan of a policy's schedule, without a scheduler: for any timesteps of its sampler."""

from __future__ import annotations

from dqar.gate_table import GateTable
from dqar.policy.network import ReusePolicy
from dqar.sampler_names import plan_sampler
from dqar.schedules.static_plan import StaticPlan


def plan_of_policy(policy: ReusePolicy, num_computed: int | None = None) -> StaticPlan:
    """Return the plan of one of a policy's schedules.

    Args:
        policy: policy with plans, trained on a model.
        num_computed: number of computed steps; by default those of the policy's error budget.

    Raises:
        ValueError: if the policy decides step by step, or has no such schedule.
    """
    spec = policy.spec
    if not (spec.plans and spec.steps and spec.num_layers):
        raise ValueError(
            "A plan must come from a policy with plans for the steps and layers of a model. Got "
            f"one with {len(spec.plans)} plans. Train with --features schedule, or pass the "
            "policy itself."
        )
    schedule = spec.schedule_of(num_computed)
    gates = GateTable.regular(spec.sites, spec.num_layers)
    return StaticPlan.of_mask(
        schedule.mask(spec.steps)[:, None].expand(-1, gates.num_gates),
        sites=spec.sites,
        gates=gates,
        forecast_order=schedule.forecast_order,
        sampler=plan_sampler(spec.sampler),
        feedback=schedule.feedback,
    )
