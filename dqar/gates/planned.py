"""A gate that follows one of a policy's plans, made before the run."""

from __future__ import annotations

from typing import final

from dqar.gates.base import Gate, everywhere
from dqar.policy.network import ReusePolicy
from dqar.records import DecisionReason, GateDecision, GateInputs


@final
class ScheduleGate(Gate):
    """Compute every site at the steps of one of the policy's plans, reuse at all other steps.

    Args:
        num_computed: number of computed steps of the plan to follow; by default the choice of
            :meth:`dqar.PolicySpec.schedule_of`.

    Raises:
        ValueError: if the policy has no plan with that number of computed steps.
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
                f"A plan must have the run's number of steps. Got one for {steps}, at a run of "
                f"{inputs.step.total}. Sample with {steps} steps, or collect and train for "
                f"{inputs.step.total}."
            )
        return everywhere(inputs.step.index in self.computed, DecisionReason.POLICY, inputs)
