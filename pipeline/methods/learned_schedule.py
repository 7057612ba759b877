"""Learned schedule: a policy's plan for a whole run, compared with alternatives by measurement.

A plan is optimal only under the policy's damage model, which has errors. For each number of
computed steps the plan is therefore the start of a search by measurement on calibration noise
samples (:mod:`pipeline.methods.schedule_selection`), and the schedule that errs least is used.
"""

from __future__ import annotations

from dataclasses import replace

from dqar.gates.base import Gate
from dqar.gates.planned import ScheduleGate
from dqar.gates.rules import MaskGate
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import EXPLORATION, PolicySpec
from pipeline.methods.base import (
    Calibrate,
    CalibrationBudget,
    CalibrationCost,
    Comparison,
    Method,
    OperatingPoint,
    Session,
    SweepGrid,
    budget_label,
)
from pipeline.methods.learned_gate import LearnedGate
from pipeline.methods.schedule_selection import ScheduleSelection
from pipeline.methods.search.candidates import Candidate


def planned_points(
    name: str,
    policy: ReusePolicy,
    comparison: Comparison,
    ask: Calibrate,
    budget: CalibrationBudget,
) -> list[OperatingPoint]:
    """Return the best schedule for each reuse ratio of the grid, and for the error budget.

    Args:
        name: method name of the policy's rows.
        ask: runs calibration tasks.
        budget: tuning budget, without what exploration took.
    """
    if "learned" not in comparison.methods:
        return []
    selection = ScheduleSelection(policy, ask, budget)
    numbers = numbers_of(policy.spec, comparison.grid)
    error_budget = comparison.error_budget
    to_come = 0 if error_budget is None else len(policy.spec.plans).bit_length()
    points = [_point(name, policy, one) for one in selection.select(numbers, to_come)]
    if error_budget is not None:
        chosen = selection.within(error_budget)
        label = budget_label(error_budget)
        points.append(replace(_point(name, policy, chosen), operating_point=label))
    return points


def exploration_evaluations(spec: PolicySpec) -> int:
    """Return the model evaluations of the traces that a policy was trained on; 0 if unknown."""
    return int(spec.metrics.get(EXPLORATION, 0))


def without_exploration(budget: CalibrationBudget, spec: PolicySpec) -> CalibrationBudget:
    """Return what a tuning budget leaves after the exploration of a policy."""
    if budget.evaluations is None:
        return budget
    return CalibrationBudget(evaluations=max(0, budget.evaluations - exploration_evaluations(spec)))


def numbers_of(spec: PolicySpec, grid: SweepGrid) -> list[int]:
    """Return the numbers of computed steps that the grid asks for and the policy has plans for."""
    wanted = {round((1.0 - ratio) * spec.steps) for ratio in grid.reuse_ratios}
    return sorted(wanted & {len(plan) for plan in spec.plans})


def _point(name: str, policy: ReusePolicy, chosen: Candidate) -> OperatingPoint:
    schedule = chosen.schedule
    return OperatingPoint(
        method=name,
        operating_point=f"{chosen.source},computed={len(schedule)},"
        f"order={schedule.forecast_order},feedback={schedule.feedback:g}",
        steps=policy.spec.steps,
        gate=_gate(policy, chosen),
        forecast_order=schedule.forecast_order,
        feedback=schedule.feedback,
        schedule=schedule,
        schedule_source=chosen.source,
    )


def _gate(policy: ReusePolicy, chosen: Candidate) -> Gate:
    if chosen.source == "policy":
        return ScheduleGate(policy, len(chosen.schedule))
    return MaskGate(chosen.schedule.mask(policy.spec.steps)[:, None, None])


class LearnedSchedule(Method):
    """A policy that plans whole runs, at the schedules of smallest error on calibration noise.

    For a policy without plans, :meth:`build` returns a :class:`LearnedGate` instead.
    """

    name = "learned"
    role = "subject"

    def __init__(self, row_name: str, policy: ReusePolicy) -> None:
        self.row_name, self.policy = row_name, policy

    @classmethod
    def build(cls, comparison: Comparison) -> list[Method]:
        policies = comparison.policies.items()
        return [
            (cls if policy.spec.plans else LearnedGate)(name, policy) for name, policy in policies
        ]

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        rest = without_exploration(budget, self.policy.spec)
        self._points = planned_points(
            self.row_name, self.policy, session.comparison, session.calibrate, rest
        )
        explored = exploration_evaluations(self.policy.spec)
        return replace(session.cost, evaluations=session.cost.evaluations + explored)

    def points(self, session: Session) -> list[OperatingPoint]:
        return self._points
