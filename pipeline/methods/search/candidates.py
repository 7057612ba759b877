"""Candidate schedules of a policy for a number of computed steps, the most promising first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations, zip_longest

import numpy as np

from dqar.policy.spec import PolicySpec
from dqar.step_schedule import ReuseSetting, StepSchedule
from pipeline.methods.base import ScheduleSource
from pipeline.methods.search.spacing import distinct_steps, first_spacings

GAINS = (0.3, 0.7)
"""Gains that plans with error feedback are also compared with: collections explore few gains."""
EXHAUSTIVE_STEPS = 8
"""Sampling steps up to which every mask is a candidate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A candidate schedule, its origin, and its measured error."""

    source: ScheduleSource
    """Origin of the schedule."""
    schedule: StepSchedule
    """Computed steps, forecast order and gain."""
    error: float = field(default=float("inf"), compare=False)
    """Mean relative L2 error against the reference samples, on calibration noise; infinite until
    measured. The schedule was chosen on these samples: expect a slightly larger error on others."""


def uniform_steps(steps: int, number: int) -> tuple[int, ...]:
    """Return ``number`` steps spread evenly over ``steps``, from step 0 on."""
    return tuple(index * steps // number for index in range(number))


def with_number(schedule: StepSchedule, number: int, steps: int) -> StepSchedule:
    """Return a schedule of the same spacing with another number of computed steps."""
    count = len(schedule)
    places = np.interp(
        np.linspace(0, count - 1, number), np.arange(count), np.array(schedule.computed)
    )
    return replace(schedule, computed=distinct_steps(places.tolist(), steps))


def candidates(spec: PolicySpec, number: int) -> list[Candidate]:
    """Return the candidates with one number of computed steps, the most promising first.

    These are the policy's own schedule, then in turns: the alternatives of its training, spacing
    rules, and even schedules, each with the forecast orders and gains of training, and all of these
    with other gains. With few sampling steps every mask follows.
    """
    own = Candidate(source="policy", schedule=spec.schedule_of(number))
    rivals = [one for one in spec.rivals if len(one) == number]
    planned = [
        Candidate(source="alternative", schedule=one)
        for one in sorted(rivals, key=lambda one: (one.forecast_order == 0, -one.feedback))
    ]
    planned += [other for one in [own, *planned] for other in _gains_around(one)]
    spaced = [
        Candidate(source="spaced", schedule=one.schedule(number, spec.steps))
        for one in first_spacings()
    ]
    even = [
        Candidate(source="uniform", schedule=scheduled(uniform_steps(spec.steps, number), setting))
        for setting in _settings(spec)
    ]
    turns = zip_longest(planned[::2], planned[1::2], spaced, even)
    mixed = [one for turn in turns for one in turn if one is not None]
    return list(dict.fromkeys([own, *mixed, *_all_masks(spec, number)]))


def _all_masks(spec: PolicySpec, number: int) -> list[Candidate]:
    if spec.steps > EXHAUSTIVE_STEPS:
        return []
    return [
        Candidate(source="search", schedule=scheduled((0, *later), setting))
        for later in combinations(range(1, spec.steps), number - 1)
        for setting in _settings(spec)
    ]


def _settings(spec: PolicySpec) -> list[ReuseSetting]:
    """Return the forecast orders and gains of a training, and each order without feedback."""
    without = [(order, 0.0) for order in range(spec.forecast_order + 1)]
    return list(dict.fromkeys([spec.setting, *(one.setting for one in spec.rivals), *without]))


def scheduled(computed: tuple[int, ...], setting: ReuseSetting) -> StepSchedule:
    """Return the schedule of some computed steps with a forecast order and a gain."""
    return StepSchedule(computed=computed, forecast_order=setting[0], feedback=setting[1])


def _gains_around(candidate: Candidate) -> list[Candidate]:
    """Return a schedule that uses error feedback with other gains."""
    if not candidate.schedule.feedback:
        return []
    return [
        Candidate(source="alternative", schedule=candidate.schedule.with_feedback(gain))
        for gain in GAINS
    ]
