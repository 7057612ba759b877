"""Selection of a policy's schedules: the model proposes, measurement decides.

The candidates for a number of computed steps are the policy's own plan, the alternatives of its
training, spacing rules, even schedules, and what was best for the neighbouring numbers. Successive
halving on calibration noise compares them (:mod:`pipeline.methods.search.halving`); a local search
by the damage model and a Gaussian process goes on from the best
(:mod:`pipeline.methods.search.local_search`); and noise samples that neither saw say whether its
result is better than where it started, or fitted to its samples. With few sampling steps all masks
are candidates.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from itertools import combinations, zip_longest

import numpy as np

from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from dqar.step_schedule import ReuseSetting, StepSchedule
from pipeline.methods.base import Calibrate, CalibrationBudget, ScheduleSource
from pipeline.methods.search.frontier import shared_trajectories
from pipeline.methods.search.halving import ROUNDS, halve
from pipeline.methods.search.local_search import BLOCK, TRIED, LocalSearch
from pipeline.methods.search.measured_errors import MeasuredErrors
from pipeline.methods.search.objective import paired_difference
from pipeline.methods.search.predicted_error import PredictedError
from pipeline.methods.search.spacing import distinct_steps, first_spacings

HALVING_SHARE = 0.45
"""Share of a number's trajectories for successive halving; the rest is for the local search."""
SEARCHED_ON = ROUNDS[-1]
"""Calibration noise samples of successive halving and of the local search."""
HELD_OUT = range(SEARCHED_ON, SEARCHED_ON + 16)
"""Calibration noise samples that only compare the search's result with its start."""
PUT_ASIDE = SEARCHED_ON + 2 * len(HELD_OUT)
"""Trajectories that a local search puts aside: its start on all samples, and the comparison."""
GAINS = (0.3, 0.7)
"""Gains that plans with error feedback are also compared with: collections explore few gains."""
NEIGHBOURS = 2
"""Chosen schedules of other numbers of computed steps that a number starts from, the nearest."""
EXHAUSTIVE_STEPS = 8
"""Sampling steps up to which every mask is a candidate."""
LEAST_ROUNDS = 2
"""Rounds below which the local search is left out."""


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


class ScheduleSelection:
    """Chooses a schedule for each number of computed steps within a tuning budget.

    Args:
        policy: policy that planned the schedules.
        ask: runs calibration tasks.
        budget: tuning budget of all numbers together, without what exploration took.
    """

    def __init__(self, policy: ReusePolicy, ask: Calibrate, budget: CalibrationBudget) -> None:
        self._policy, self._spec, self._budget = policy, policy.spec, budget
        self._measured = MeasuredErrors(ask, policy.spec.steps)
        self._chosen: dict[int, Candidate] = {}

    def select(self, numbers: list[int], points_to_come: int = 0) -> list[Candidate]:
        """Return the chosen schedule for each number of computed steps, fewest first.

        Args:
            numbers: numbers of computed steps.
            points_to_come: later choices that the budget is shared with.
        """
        new = [number for number in numbers if number not in self._chosen]
        for index, number in enumerate(new):
            left = len(new) - index + points_to_come
            trajectories = shared_trajectories(self._budget, self._measured, left, HELD_OUT.stop)
            self._chosen[number] = self._select(number, trajectories)
        return [self._chosen[number] for number in sorted(numbers)]

    def within(self, error_budget: float) -> Candidate:
        """Return the schedule with the fewest computed steps that is measured within a budget.

        Bisection over the numbers of computed steps, from the number that the policy predicts on.
        If no schedule is within the budget, the one with the most computed steps is returned.

        Args:
            error_budget: relative L2 error.
        """
        numbers = [len(plan) for plan in self._spec.plans]
        low, high = 0, len(numbers) - 1
        predicted = self._spec.schedule_of()
        at = min(numbers.index(len(predicted)), max(0, high - 1))
        while low < high:
            rest = (high - low).bit_length() - 1
            (found,) = self.select([numbers[at]], points_to_come=rest)
            low, high = (low, at) if found.error <= error_budget else (at + 1, high)
            at = (low + high) // 2
        return self.select([numbers[low]])[0]

    def _select(self, number: int, trajectories: int) -> Candidate:
        options = self._candidates(number)
        sources: dict[StepSchedule, ScheduleSource] = {
            one.schedule: one.source for one in reversed(options)
        }
        before = self._measured.spent
        share = HALVING_SHARE if self._has_local_search(trajectories) else 1.0
        ranked = halve([one.schedule for one in options], self._measured, int(share * trajectories))
        spent = (self._measured.spent - before) // self._spec.steps
        found = self._searched(ranked, trajectories - spent) if share < 1.0 else ranked[0]
        return Candidate(
            source=sources.get(found, "search"), schedule=found, error=self._error(found)
        )

    def _has_local_search(self, trajectories: int) -> bool:
        """True if a local search of some rounds is affordable, and not all masks are candidates."""
        least = PUT_ASIDE + LEAST_ROUNDS * BLOCK * (TRIED + 1)
        is_exhaustive = self._spec.steps <= EXHAUSTIVE_STEPS
        return not is_exhaustive and (1.0 - HALVING_SHARE) * trajectories >= least

    def _searched(self, ranked: list[StepSchedule], trajectories: int) -> StepSchedule:
        """Return the better of the local search's result and its start, on held-out samples."""
        start = ranked[0]
        self._measured.errors([start], range(SEARCHED_ON))
        predicted = PredictedError(self._policy, self._measured.snrs)
        draws = random.Random(len(start))
        search = LocalSearch(start, self._measured, SEARCHED_ON, predicted, draws)
        search.know(ranked[1:4], range(ROUNDS[0]))
        found = search.run(trajectories - PUT_ASIDE)
        errors = self._measured.errors([found, start], HELD_OUT)
        difference, _ = paired_difference(errors[0], errors[1])
        return found if difference <= 0.0 else start

    def _error(self, schedule: StepSchedule) -> float:
        """Return the mean error over the noise samples that have measured the schedule."""
        return self._measured.mean_error(schedule)

    def _candidates(self, number: int) -> list[Candidate]:
        """Return the candidates for a number of computed steps, the most promising first."""
        spec = self._spec
        near = sorted(self._chosen.values(), key=lambda one: abs(len(one.schedule) - number))
        resampled = [
            Candidate(source="search", schedule=with_number(one.schedule, number, spec.steps))
            for one in near[:NEIGHBOURS]
        ]
        planned = candidates(spec, number)
        return list(dict.fromkeys([planned[0], *resampled, *planned[1:]]))


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
        Candidate(source="uniform", schedule=_scheduled(uniform_steps(spec.steps, number), setting))
        for setting in _settings(spec)
    ]
    turns = zip_longest(planned[::2], planned[1::2], spaced, even)
    mixed = [one for turn in turns for one in turn if one is not None]
    return list(dict.fromkeys([own, *mixed, *_all_masks(spec, number)]))


def _all_masks(spec: PolicySpec, number: int) -> list[Candidate]:
    if spec.steps > EXHAUSTIVE_STEPS:
        return []
    return [
        Candidate(source="search", schedule=_scheduled((0, *later), setting))
        for later in combinations(range(1, spec.steps), number - 1)
        for setting in _settings(spec)
    ]


def _settings(spec: PolicySpec) -> list[ReuseSetting]:
    """Return the forecast orders and gains of a training, and each order without feedback."""
    without = [(order, 0.0) for order in range(spec.forecast_order + 1)]
    return list(dict.fromkeys([spec.setting, *(one.setting for one in spec.rivals), *without]))


def _scheduled(computed: tuple[int, ...], setting: ReuseSetting) -> StepSchedule:
    return StepSchedule(computed=computed, forecast_order=setting[0], feedback=setting[1])


def _gains_around(candidate: Candidate) -> list[Candidate]:
    """Return a schedule that uses error feedback with other gains."""
    if not candidate.schedule.feedback:
        return []
    return [
        Candidate(source="alternative", schedule=candidate.schedule.with_feedback(gain))
        for gain in GAINS
    ]
