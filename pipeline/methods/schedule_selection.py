"""Selection among candidate schedules by measurement on calibration noise samples.

Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) with two rounds: every candidate
schedule is scored on 4 calibration samples; the best 4, the policy's own schedule and the best
uniform schedule are scored on 28 more. The policy's own and the uniform schedule skip the first
round's cut, so that the selected schedule is at least as good as both on the 28 samples. The best
schedule is then scored again with slightly smaller and larger gains of the error feedback.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch

from dqar.gates.rules import MaskGate
from dqar.policy.spec import PolicySpec
from dqar.step_schedule import StepSchedule
from pipeline.methods.base import (
    Calibrate,
    ScheduleSource,
)
from pipeline.methods.calibration import CalibrationTask

SCREENING_SAMPLES = range(4)
"""Calibration noise samples that every candidate is scored on."""
FINAL_SAMPLES = range(4, 32)
"""Calibration noise samples that the shortlist of the first round is scored on."""
SHORTLIST = 4
"""Number of best candidates, for each number of computed steps, that reach the second round."""
GAIN_FACTORS = (0.5, 1.5)
"""Factors on the gain of the error feedback of every candidate, which is also scored with half and
with one and a half times its gain. The best gain depends on the error of a single reuse: forecast
order 0, which shows the cached value unchanged, needs the largest."""
GAIN_CHANGES = (-0.3, -0.15, 0.15, 0.3)
"""Amounts added to the gain of the best schedule, each scored on the samples of the second round.
Collections explore few gains, and the error changes smoothly between them."""
TASK_SAMPLES = 96
"""Most samples of one calibration task; a worker splits them into its own batches."""
NEIGHBOURS = 6
"""Numbers of computed steps that one step of the search for an error budget scores together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A candidate schedule, its origin, and its measured error."""

    source: ScheduleSource
    """Origin of the schedule."""
    schedule: StepSchedule
    """Computed steps, forecast order and gain."""
    error: float = field(default=math.inf, compare=False)
    """Mean relative L2 error against the reference samples, on calibration noise; infinite until
    measured. The error of the best candidate is a minimum over several, so it is biased low: expect
    a slightly larger error on other noise samples."""


def uniform_steps(steps: int, number: int) -> tuple[int, ...]:
    """Return ``number`` steps spread evenly over ``steps``, from step 0 on."""
    return tuple(index * steps // number for index in range(number))


def select_schedules(spec: PolicySpec, numbers: list[int], ask: Calibrate) -> list[Candidate]:
    """Return the best candidate for each number of computed steps.

    Args:
        spec: specification of the policy that planned the schedules.
        numbers: numbers of computed steps.
        ask: runs calibration tasks.
    """
    fields = [candidates(spec, number) for number in numbers]
    if max(map(len, fields), default=0) > SHORTLIST:
        first = _score(spec, [one for field in fields for one in field], SCREENING_SAMPLES, ask)
        fields = list(map(_shortlist, _by_number(first)))
    judged = _score(spec, [one for field in fields for one in field], FINAL_SAMPLES, ask)
    best = [field[0] for field in _by_number(judged)]
    beside = [one for judged in best for one in _gains_beside(spec, judged)]
    more = _by_number([*best, *_score(spec, beside, FINAL_SAMPLES, ask)])
    return [field[0] for field in more]


def _shortlist(field: list[Candidate]) -> list[Candidate]:
    """Return the best candidates, the policy's own schedule and the best uniform schedule."""
    kept = [*field[:SHORTLIST]]
    for kind in ("policy", "uniform"):
        kept.append(next(one for one in field if one.source == kind))
    return list(dict.fromkeys(kept))


def _gains_beside(spec: PolicySpec, best: Candidate) -> list[Candidate]:
    """Return the best schedule with neighbouring gains; none if training had no error feedback."""
    if not any(gain for _, gain in [spec.setting, *(one.setting for one in spec.rivals)]):
        return []
    gains = (round(best.schedule.feedback + change, 2) for change in GAIN_CHANGES)
    return [_with_gain(best, gain) for gain in gains if 0.0 <= gain <= 1.0]


def _by_number(judged: list[Candidate]) -> list[list[Candidate]]:
    """Group candidates by number of computed steps, fewest first; sort each group by error."""

    def number(one: Candidate) -> int:
        return len(one.schedule)

    groups = groupby(sorted(judged, key=number), key=number)
    return [sorted(group, key=lambda one: one.error) for _, group in groups]


def _score(
    spec: PolicySpec, candidates: list[Candidate], noise_ids: range, ask: Calibrate
) -> list[Candidate]:
    errors = _errors(spec, [one.schedule for one in candidates], noise_ids, ask)
    return [replace(one, error=error) for one, error in zip(candidates, errors, strict=True)]


def within_budget(spec: PolicySpec, error_budget: float, ask: Calibrate) -> Candidate:
    """Return the schedule with the fewest computed steps whose measured error is within a budget.

    The search starts at the number of computed steps that the policy predicts. It continues to
    smaller numbers while the smallest number scored so far is within the budget, and to larger
    numbers until one is. If none is, the schedule with the most computed steps is returned.

    Args:
        spec: specification of the policy that planned the schedules.
        error_budget: relative L2 error.
        ask: runs calibration tasks.
    """
    numbers = [len(plan) for plan in spec.plans]
    predicted = len(replace(spec, error_budget=error_budget).schedule_of())
    start = max(0, numbers.index(predicted) - NEIGHBOURS // 2)
    judged = select_schedules(spec, numbers[start : start + NEIGHBOURS], ask)
    stop = start + len(judged)
    while start > 0 and judged[0].error <= error_budget:
        low = max(0, start - NEIGHBOURS)
        judged = select_schedules(spec, numbers[low:start], ask) + judged
        start = low
    while stop < len(numbers) and all(one.error > error_budget for one in judged):
        judged += select_schedules(spec, numbers[stop : stop + NEIGHBOURS], ask)
        stop = min(stop + NEIGHBOURS, len(numbers))
    return next((one for one in judged if one.error <= error_budget), judged[-1])


def candidates(spec: PolicySpec, number: int) -> list[Candidate]:
    """Return all candidates with one number of computed steps.

    These are the policy's own schedule, the alternatives of its training, the uniform schedule with
    each forecast order and gain, and all of these with other gains.
    """
    below = [(order, 0.0) for order in range(spec.forecast_order + 1)]
    settings = dict.fromkeys([*below, spec.setting, *(one.setting for one in spec.rivals)])
    computed = uniform_steps(spec.steps, number)
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
    return list(dict.fromkeys([*planned, *_gains_around(planned)]))


def _gains_around(candidates: list[Candidate]) -> list[Candidate]:
    """Return the candidates that use error feedback with smaller and with larger gains."""
    return [
        _with_gain(one, min(1.0, factor * one.schedule.feedback))
        for factor in GAIN_FACTORS
        for one in candidates
        if one.schedule.feedback
    ]


def _with_gain(candidate: Candidate, gain: float) -> Candidate:
    """Return a candidate with another gain.

    A policy's own schedule with another gain counts as an alternative.
    """
    source: ScheduleSource = "uniform" if candidate.source == "uniform" else "alternative"
    return Candidate(source=source, schedule=candidate.schedule.with_feedback(round(gain, 4)))


def _errors(
    spec: PolicySpec, schedules: list[StepSchedule], noise_ids: range, ask: Calibrate
) -> list[float]:
    per_batch = max(1, TASK_SAMPLES // len(noise_ids))
    tasks = [
        _task(spec, schedules[start : start + per_batch], noise_ids, f"{noise_ids}-{start:06d}")
        for start in range(0, len(schedules), per_batch)
    ]
    results = ask(tasks)
    errors = [results[task.name].error.view(-1, len(noise_ids)).mean(dim=1) for task in tasks]
    # Samples that diverged have NaN errors, which sorting would place arbitrarily.
    return [float(error) for batch in errors for error in batch.nan_to_num(nan=torch.inf)]


def _task(
    spec: PolicySpec, schedules: list[StepSchedule], noise_ids: range, name: str
) -> CalibrationTask:
    """Return one task that runs all schedules, each on the same noise samples."""
    masks = torch.stack([candidate.mask(spec.steps) for candidate in schedules], dim=1)
    columns = masks.repeat_interleave(len(noise_ids), dim=1)
    return CalibrationTask(
        name=name,
        gate=MaskGate(columns[:, None, :]),
        num_samples=columns.shape[1],
        noise_ids=tuple(noise_ids) * len(schedules),
        forecast_order=tuple(one.forecast_order for one in schedules for _ in noise_ids),
        feedback=tuple(one.feedback for one in schedules for _ in noise_ids),
    )
