"""Selection among candidate schedules by measurement on calibration noise samples.

Successive halving (Jamieson and Talwalkar 2016): every candidate is scored on 4 samples; the best
4, the policy's own schedule and the best uniform one are scored on 28 more. The last two are kept
whatever the first samples say, so that nothing worse than them is shipped. The best schedule is
then scored with gains of the error feedback beside its own.
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
"""Calibration noise samples that the shortlist is scored on."""
SHORTLIST = 4
"""Best candidates of a number of computed steps that are scored on more samples."""
GAIN_FACTORS = (0.5, 1.5)
"""Factors on the gain of every candidate, which is also scored with a smaller and a larger one. The
best gain grows with what a reuse leaves out, and is largest where it shows the cached value."""
GAIN_CHANGES = (-0.3, -0.15, 0.15, 0.3)
"""Changes of the best schedule's gain, scored on the same samples: gains that training explored lie
far apart, and errors change smoothly from one gain to the next."""
TASK_SAMPLES = 96
"""Samples of a calibration task; the worker runs them in batches of its own size."""
NEIGHBOURS = 6
"""Numbers of computed steps that are scored together in the search for an error budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A schedule that a policy may ship, its origin, and the error that it was measured to have."""

    source: ScheduleSource
    schedule: StepSchedule
    error: float = field(default=math.inf, compare=False)
    """Mean relative L2 to the reference samples on calibration noise. The best candidate's is the
    smallest of several, so that on other noise a little more is to be expected."""


def uniform_steps(steps: int, number: int) -> tuple[int, ...]:
    """``number`` steps spread evenly from step 0 on, as a regular interval would."""
    return tuple(index * steps // number for index in range(number))


def select_schedules(spec: PolicySpec, numbers: list[int], ask: Calibrate) -> list[Candidate]:
    """The best candidate for each number of computed steps."""
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
    """The best candidates, and in any case the policy's own and the best uniform one."""
    kept = [*field[:SHORTLIST]]
    for kind in ("policy", "uniform"):
        kept.append(next(one for one in field if one.source == kind))
    return list(dict.fromkeys(kept))


def _gains_beside(spec: PolicySpec, best: Candidate) -> list[Candidate]:
    """The same steps with gains beside the best one's; none where training had no feedback."""
    if not any(gain for _, gain in [spec.setting, *(one.setting for one in spec.rivals)]):
        return []
    gains = (round(best.schedule.feedback + change, 2) for change in GAIN_CHANGES)
    return [_with_gain(best, gain) for gain in gains if 0.0 <= gain <= 1.0]


def _by_number(judged: list[Candidate]) -> list[list[Candidate]]:
    """Candidates grouped by number of computed steps, fewest first, each group by error."""

    def number(one: Candidate) -> int:
        return len(one.schedule)

    groups = groupby(sorted(judged, key=number), key=number)
    return [sorted(group, key=lambda one: one.error) for _, group in groups]


def _score(
    spec: PolicySpec, candidates: list[Candidate], noises: range, ask: Calibrate
) -> list[Candidate]:
    errors = _errors(spec, [one.schedule for one in candidates], noises, ask)
    return [replace(one, error=error) for one, error in zip(candidates, errors, strict=True)]


def within_budget(spec: PolicySpec, error_budget: float, ask: Calibrate) -> Candidate:
    """The schedule of fewest computed steps whose measured error stays within a budget, else the
    one of most.

    The search starts at the predicted number: it goes to fewer steps while the fewest scored so far
    stay within the budget, and to more until some do.
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
    """The policy's own schedule, its alternatives and the uniform one of each setting, then the
    same with other gains."""
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
    """Candidates with smaller and larger gains: good steps may have been planned for a poor one."""
    return [
        _with_gain(one, min(1.0, factor * one.schedule.feedback))
        for factor in GAIN_FACTORS
        for one in candidates
        if one.schedule.feedback
    ]


def _with_gain(candidate: Candidate, gain: float) -> Candidate:
    """The same steps with another gain. A policy's own schedule with another gain is an
    alternative."""
    source: ScheduleSource = "uniform" if candidate.source == "uniform" else "alternative"
    return Candidate(source=source, schedule=candidate.schedule.with_feedback(round(gain, 4)))


def _errors(
    spec: PolicySpec, schedules: list[StepSchedule], noises: range, ask: Calibrate
) -> list[float]:
    per_batch = max(1, TASK_SAMPLES // len(noises))
    tasks = [
        _task(spec, schedules[start : start + per_batch], noises, f"{noises}-{start:06d}")
        for start in range(0, len(schedules), per_batch)
    ]
    results = ask(tasks)
    errors = [results[task.name].error.view(-1, len(noises)).mean(dim=1) for task in tasks]
    # What diverged is the worst; NaN would win, or lose, by its place.
    return [float(error) for batch in errors for error in batch.nan_to_num(nan=torch.inf)]


def _task(
    spec: PolicySpec, schedules: list[StepSchedule], noises: range, name: str
) -> CalibrationTask:
    """All schedules side by side, each on the same noise samples."""
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
