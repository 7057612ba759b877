"""A gate that follows a plan made before the run."""

from __future__ import annotations

from typing import final

from dqar.gates.base import Gate, everywhere
from dqar.policy.network import ReusePolicy
from dqar.records import DecisionReason, GateDecision, GateInputs


@final
class ScheduleGate(Gate):
    """Compute every gate at the steps of one of the policy's plans, reuse at all others.

    Args:
        num_computed: how many steps compute; the policy's own choice by default.

    Raises:
        ValueError: if the policy has no such plan.
    """

    def __init__(self, policy: ReusePolicy, num_computed: int | None = None) -> None:
        self.policy = policy
        self.computed = frozenset(policy.spec.schedule_of(num_computed).computed)

    @property
    def policies(self) -> tuple[ReusePolicy, ...]:
        return (self.policy,)

    def decide(self, inputs: GateInputs) -> GateDecision:
        steps = self.policy.spec.steps
        if inputs.step.total != steps:
            raise ValueError(
                f"A plan must be for this many steps. Got one for {steps}, at a run of "
                f"{inputs.step.total}. Sample with {steps} steps, or collect and train for others."
            )
        return everywhere(inputs.step.index in self.computed, DecisionReason.POLICY, inputs)
