"""Operating points of a policy that plans whole runs.

A plan is only as good as the model of damage behind it. So for each number of computations it is
compared on calibration noise with other plans that training made and with the regular schedule,
for each order of forecasts and each gain of the error feedback that training had, and the best is
what the policy ships.

They are many, and most are far from the best. So all are judged by a few noises, and by more the
best of those, the policy's own plan and the best regular schedule: never less than that is shipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch

from dqar.gates.base import Gate
from dqar.gates.planned import ScheduleGate
from dqar.gates.rules import MaskGate
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from dqar.step_schedule import StepSchedule
from pipeline.methods.base import (
    Calibrate,
    CalibrationBudget,
    CalibrationCost,
    Comparison,
    Method,
    OperatingPoint,
    ScheduleSource,
    Session,
    SweepGrid,
    budget_label,
)
from pipeline.methods.calibration import CalibrationTask
from pipeline.methods.learned_gate import LearnedGate

FIRST_NOISES = range(4)
"""Calibration noises that every candidate is judged by."""
MORE_NOISES = range(4, 32)
"""Those that the shortlisted are judged by."""
SHORTLIST = 4
"""Candidates of a number of computations that are judged by more noises."""
FACTORS = (0.5, 1.5)
"""What gains are multiplied by, so that all are also judged with a smaller and a larger one. The
more a reuse leaves out, the larger the best gain is: most where it shows the cached value."""
CHANGES = (-0.3, -0.15, 0.15, 0.3)
"""What is added to the gain of the best, on the same noises: what training explored lies far
apart, and errors change little, and smoothly, from one gain to the next."""
BATCH = 96
"""Samples of a question to a worker, which takes them in batches of its own."""
NEIGHBOURS = 6
"""Plans that are judged together on the way to an error budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A schedule that a policy may ship, its origin, and the error that it was measured to have."""

    source: ScheduleSource
    schedule: StepSchedule
    error: float = field(default=math.inf, compare=False)
    """Mean relative L2 to the reference samples on calibration noise. The best candidate's is the
    smallest of several, so that on other noise a little more is to be expected."""


def planned_points(
    name: str, policy: ReusePolicy, comparison: Comparison, ask: Calibrate
) -> list[OperatingPoint]:
    """The best candidate for each reuse ratio of the grid, and for the error budget.

    Args:
        ask: answers probes on calibration noise.
    """
    if "learned" not in comparison.methods:
        return []
    judged = judge(policy.spec, numbers_of(policy.spec, comparison.grid), ask)
    points = [_point(name, policy, one) for one in judged]
    if comparison.error_budget is not None:
        chosen = within_budget(policy.spec, comparison.error_budget, ask)
        label = budget_label(comparison.error_budget)
        points.append(replace(_point(name, policy, chosen), operating_point=label))
    return points


def numbers_of(spec: PolicySpec, grid: SweepGrid) -> list[int]:
    """Computed steps that the policy has a plan for and the grid asks for."""
    wanted = {round((1.0 - ratio) * spec.steps) for ratio in grid.reuse_ratios}
    return sorted(wanted & {len(plan) for plan in spec.plans})


def even(steps: int, number: int) -> tuple[int, ...]:
    """``number`` steps spread evenly from step 0 on, as a regular interval would."""
    return tuple(index * steps // number for index in range(number))


def judge(spec: PolicySpec, numbers: list[int], ask: Calibrate) -> list[Candidate]:
    """The best candidate for each number of computed steps."""
    fields = [candidates(spec, number) for number in numbers]
    if max(map(len, fields), default=0) > SHORTLIST:
        first = _judged(spec, [one for field in fields for one in field], FIRST_NOISES, ask)
        fields = list(map(_shortlist, _by_number(first)))
    judged = _judged(spec, [one for field in fields for one in field], MORE_NOISES, ask)
    best = [field[0] for field in _by_number(judged)]
    beside = [one for judged in best for one in _beside(spec, judged)]
    more = _by_number([*best, *_judged(spec, beside, MORE_NOISES, ask)])
    return [field[0] for field in more]


def _shortlist(field: list[Candidate]) -> list[Candidate]:
    """The best of them, with the policy's own and the best even one whatever a few noises say."""
    kept = [*field[:SHORTLIST]]
    for kind in ("policy", "uniform"):
        kept.append(next(one for one in field if one.source == kind))
    return list(dict.fromkeys(kept))


def _beside(spec: PolicySpec, best: Candidate) -> list[Candidate]:
    """The same steps with gains beside a schedule's; none where training had no feedback."""
    if not any(gain for _, gain in [spec.setting, *(one.setting for one in spec.rivals)]):
        return []
    gains = (round(best.schedule.feedback + change, 2) for change in CHANGES)
    return [_with_gain(best, gain) for gain in gains if 0.0 <= gain <= 1.0]


def _by_number(judged: list[Candidate]) -> list[list[Candidate]]:
    """Groups of as many computations, fewest first, each with the best first."""

    def number(one: Candidate) -> int:
        return len(one.schedule)

    groups = groupby(sorted(judged, key=number), key=number)
    return [sorted(group, key=lambda one: one.error) for _, group in groups]


def _judged(
    spec: PolicySpec, candidates: list[Candidate], noises: range, ask: Calibrate
) -> list[Candidate]:
    errors = _errors(spec, [one.schedule for one in candidates], noises, ask)
    return [replace(one, error=error) for one, error in zip(candidates, errors, strict=True)]


def within_budget(spec: PolicySpec, error_budget: float, ask: Calibrate) -> Candidate:
    """The fewest computations whose measured error stays within a budget; the most there are where
    none does.

    Plans are judged from the predicted one on: to fewer computations while the fewest judged so far
    stay within the budget, to more until some do.
    """
    numbers = [len(plan) for plan in spec.plans]
    predicted = len(replace(spec, error_budget=error_budget).schedule_of())
    start = max(0, numbers.index(predicted) - NEIGHBOURS // 2)
    judged = judge(spec, numbers[start : start + NEIGHBOURS], ask)
    stop = start + len(judged)
    while start > 0 and judged[0].error <= error_budget:
        low = max(0, start - NEIGHBOURS)
        judged = judge(spec, numbers[low:start], ask) + judged
        start = low
    while stop < len(numbers) and all(one.error > error_budget for one in judged):
        judged += judge(spec, numbers[stop : stop + NEIGHBOURS], ask)
        stop = min(stop + NEIGHBOURS, len(numbers))
    return next((one for one in judged if one.error <= error_budget), judged[-1])


def candidates(spec: PolicySpec, number: int) -> list[Candidate]:
    """The policy's own plan, its rivals and the regular schedule of each setting, then the same
    with other gains."""
    below = [(order, 0.0) for order in range(spec.forecast_order + 1)]
    settings = dict.fromkeys([*below, spec.setting, *(one.setting for one in spec.rivals)])
    computed = even(spec.steps, number)
    regular = [
        StepSchedule(computed=computed, forecast_order=order, feedback=gain)
        for order, gain in settings
    ]
    planned = [
        Candidate(source="policy", schedule=spec.schedule_of(number)),
        *(
            Candidate(source="alternative", schedule=one)
            for one in spec.rivals
            if len(one) == number
        ),
        *(Candidate(source="uniform", schedule=one) for one in regular),
    ]
    return list(dict.fromkeys([*planned, *_varied(planned)]))


def _varied(candidates: list[Candidate]) -> list[Candidate]:
    """With the gain that they were planned for, far from others, good steps may look worse."""
    return [
        _with_gain(one, min(1.0, factor * one.schedule.feedback))
        for factor in FACTORS
        for one in candidates
        if one.schedule.feedback
    ]


def _with_gain(candidate: Candidate, gain: float) -> Candidate:
    """The same steps with another gain; a policy's own plan is its own with the policy's alone."""
    source: ScheduleSource = "uniform" if candidate.source == "uniform" else "alternative"
    return Candidate(source=source, schedule=candidate.schedule.with_feedback(round(gain, 4)))


def _errors(
    spec: PolicySpec, schedules: list[StepSchedule], noises: range, ask: Calibrate
) -> list[float]:
    per_batch = max(1, BATCH // len(noises))
    probes = [
        _probe(spec, schedules[start : start + per_batch], noises, f"{noises}-{start:06d}")
        for start in range(0, len(schedules), per_batch)
    ]
    answers = ask(probes)
    errors = [answers[probe.name].error.view(-1, len(noises)).mean(dim=1) for probe in probes]
    # What diverged is the worst; NaN would win, or lose, by its place.
    return [float(error) for batch in errors for error in batch.nan_to_num(nan=torch.inf)]


def _probe(
    spec: PolicySpec, schedules: list[StepSchedule], noises: range, name: str
) -> CalibrationTask:
    """All candidates side by side, each on the same noises."""
    masks = torch.stack([candidate.mask(spec.steps) for candidate in schedules], dim=1)
    columns = masks.repeat_interleave(len(noises), dim=1)
    return CalibrationTask(
        name=name,
        gate=MaskGate(columns[:, None, :]),
        num_samples=columns.shape[1],
        noise_ids=tuple(noises) * len(schedules),
        forecast_order=tuple(one.forecast_order for one in schedules for _ in noises),
        feedback=tuple(one.feedback for one in schedules for _ in noises),
    )


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
    """A policy that plans, by the schedules of least error on calibration noise.

    Of the policies of an evaluation, those without plans are built as :class:`LearnedGate`.
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
        self._points = planned_points(
            self.row_name, self.policy, session.comparison, session.calibrate
        )
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        return self._points
