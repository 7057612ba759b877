"""Operating points of a policy that plans whole runs.

A plan is only as good as the model of damage behind it. So for each number of computations it is
compared on calibration noise with other plans that training made and with the regular schedule,
for each order of forecasts that the policy's history allows, and the best is what the policy ships:
never less than a regular schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

import torch

from dqar.gates import Gate, Scripted
from dqar.planned_gate import Planned
from dqar.policy import ReusePolicy
from dqar.policy_spec import PolicySpec
from pipeline.contest import Ask, Contest, budget_label
from pipeline.methods import Grid, Point, Schedule
from pipeline.tasks import Probe

NOISES = 8
"""Calibration samples that a schedule is judged by."""
BATCH = 96
"""Samples of a calibration batch."""
NEIGHBOURS = 6
"""Plans that are judged together on the way to an error budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The best schedule for some number of computations."""

    schedule: Schedule
    error: float
    """Mean relative L2 to the twin on calibration noise. It is the smallest of several, so that on
    other noise a little more is to be expected."""


def planned_points(name: str, policy: ReusePolicy, contest: Contest, ask: Ask) -> list[Point]:
    """The best candidate for each reuse ratio of the grid, and for the error budget.

    Args:
        ask: answers probes on calibration noise.
    """
    if "learned" not in contest.methods:
        return []
    judged = judge(policy.spec, numbers_of(policy.spec, contest.grid), ask)
    points = [_point(name, policy, one.schedule) for one in judged]
    if contest.error_budget is not None:
        chosen = within_budget(policy.spec, contest.error_budget, ask).schedule
        label = budget_label(contest.error_budget)
        points.append(replace(_point(name, policy, chosen), operating_point=label))
    return points


def numbers_of(spec: PolicySpec, grid: Grid) -> list[int]:
    """Computed steps that the policy has a plan for and the grid asks for."""
    wanted = {round((1.0 - ratio) * spec.steps) for ratio in grid.reuse_ratios}
    return sorted(wanted & {len(plan) for plan in spec.plans})


def even(steps: int, number: int) -> tuple[int, ...]:
    """``number`` steps spread evenly from step 0 on, as a regular interval would."""
    return tuple(index * steps // number for index in range(number))


def judge(spec: PolicySpec, numbers: list[int], ask: Ask) -> list[Judged]:
    """The best candidate for each number of computed steps."""
    everyone = [candidate for number in numbers for candidate in candidates(spec, number)]
    judged = [
        Judged(schedule=candidate, error=error)
        for candidate, error in zip(everyone, _errors(spec, everyone, ask), strict=True)
    ]
    groups = groupby(judged, key=lambda one: len(one.schedule.computed))
    return [min(group, key=lambda one: one.error) for _, group in groups]


def within_budget(spec: PolicySpec, error_budget: float, ask: Ask) -> Judged:
    """The fewest computations whose measured error stays within a budget; the most there are where
    none does.

    Plans are judged from the predicted one on: to fewer computations while the fewest judged so far
    stay within the budget, to more until some do.
    """
    numbers = [len(plan) for plan in spec.plans]
    predicted = len(replace(spec, error_budget=error_budget).plan_of())
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


def candidates(spec: PolicySpec, number: int) -> list[Schedule]:
    """The policy's own plan, then its rivals and the regular schedule of each order."""
    own = Schedule(kind="plan", computed=spec.plan_of(number), forecast_order=spec.forecast_order)
    regular, rivals = even(spec.steps, number), spec.rivals or ((),) * (spec.forecast_order + 1)
    return [own] + [
        schedule
        for order, plans in enumerate(rivals)
        for schedule in (
            Schedule(kind="even", computed=regular, forecast_order=order),
            *_rivals(plans, number, order),
        )
    ]


def _rivals(plans: tuple[tuple[int, ...], ...], number: int, order: int) -> list[Schedule]:
    return [
        Schedule(kind="rival", computed=plan, forecast_order=order)
        for plan in plans
        if len(plan) == number
    ]


def _errors(spec: PolicySpec, schedules: list[Schedule], ask: Ask) -> list[float]:
    per_batch = BATCH // NOISES
    probes = [
        _probe(spec, schedules[start : start + per_batch], f"{start:06d}")
        for start in range(0, len(schedules), per_batch)
    ]
    answers = ask(probes)
    errors = [answers[probe.name].error.view(-1, NOISES).mean(dim=1) for probe in probes]
    # What diverged is the worst; NaN would win, or lose, by its place.
    return [float(error) for batch in errors for error in batch.nan_to_num(nan=torch.inf)]


def _probe(spec: PolicySpec, schedules: list[Schedule], name: str) -> Probe:
    """All candidates side by side, each on the same noises."""
    masks = torch.stack([candidate.mask(spec.steps) for candidate in schedules], dim=1)
    columns = masks.repeat_interleave(NOISES, dim=1)
    return Probe(
        name=name,
        gate=Scripted(columns[:, None, :]),
        num_samples=columns.shape[1],
        noise_ids=tuple(range(NOISES)) * len(schedules),
        forecast_order=tuple(one.forecast_order for one in schedules for _ in range(NOISES)),
    )


def _point(name: str, policy: ReusePolicy, schedule: Schedule) -> Point:
    spec = policy.spec
    return Point(
        method=name,
        operating_point=f"{schedule.kind}@{len(schedule.computed)},order={schedule.forecast_order}",
        steps=spec.steps,
        gate=_gate(policy, schedule),
        forecast_order=schedule.forecast_order,
        schedule=schedule,
    )


def _gate(policy: ReusePolicy, schedule: Schedule) -> Gate:
    if schedule.kind == "plan":
        return Planned(policy, len(schedule.computed))
    return Scripted(schedule.mask(policy.spec.steps)[:, None, None])
