"""Selection of a policy's schedules: the model proposes, measurement decides.

The candidates for a number of computed steps are the policy's own plan, the alternatives of its
training, minimax paths over stretches, spacing rules, even schedules, and what was best for the
neighbouring numbers. Successive halving on calibration noise compares them
(:mod:`pipeline.methods.search.halving`); a local search by the damage model and a Gaussian process
goes on from the best (:mod:`pipeline.methods.search.local_search`); and noise samples that neither
saw say whether its result is better than where it started, or fitted to its samples. With few
sampling steps all masks are candidates.
"""

from __future__ import annotations

import random

from jaxtyping import Float
from numpy import ndarray

from dqar.policy.network import ReusePolicy
from dqar.step_schedule import StepSchedule
from pipeline.methods.base import Calibrate, CalibrationBudget, ScheduleSource
from pipeline.methods.search.candidates import (
    EXHAUSTIVE_STEPS,
    Candidate,
    candidates,
    scheduled,
    with_number,
)
from pipeline.methods.search.frontier import shared_trajectories
from pipeline.methods.search.halving import ROUNDS, halve
from pipeline.methods.search.local_search import BLOCK, TRIED, LocalSearch
from pipeline.methods.search.measured_errors import MeasuredErrors
from pipeline.methods.search.objective import paired_difference
from pipeline.methods.search.predicted_error import PredictedError
from pipeline.methods.search.spacing import SETTINGS
from pipeline.methods.search.stretches import can_afford_stretches, minimax_path, stretch_weights

HALVING_SHARE = 0.45
"""Share of a number's trajectories for successive halving; the rest is for the local search."""
STRETCH_SHARE = 0.25
"""Share of the tuning budget that measures stretches one at a time, once for all numbers."""
UNBOUNDED_STRETCHES = 1600
"""Trajectories that :data:`STRETCH_SHARE` is of where the evaluation sets no budget."""
SEARCHED_ON = ROUNDS[-1]
"""Calibration noise samples of successive halving and of the local search."""
HELD_OUT = range(SEARCHED_ON, SEARCHED_ON + 16)
"""Calibration noise samples that only compare the search's result with its start."""
PUT_ASIDE = SEARCHED_ON + 2 * len(HELD_OUT)
"""Trajectories that a local search puts aside: its start on all samples, and the comparison."""
NEIGHBOURS = 2
"""Chosen schedules of other numbers of computed steps that a number starts from, the nearest."""
LEAST_ROUNDS = 2
"""Rounds below which the local search is left out."""


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
        self._weights = self._stretch_weights()

    def _stretch_weights(self) -> Float[ndarray, "t l"] | None:
        """Measure stretches one at a time; None where the budget or the steps are too few."""
        allowed = self._budget.trajectories(self._spec.steps, HELD_OUT.stop)
        share = int(STRETCH_SHARE * (UNBOUNDED_STRETCHES if allowed is None else allowed))
        steps = self._spec.steps
        if steps <= EXHAUSTIVE_STEPS or not can_afford_stretches(steps, share):
            return None
        return stretch_weights(self._measured, share)

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
        stretched = [] if self._weights is None else self._stretched(self._weights, number)
        return list(dict.fromkeys([planned[0], *stretched, *resampled, *planned[1:]]))

    def _stretched(self, weights: Float[ndarray, "t l"], number: int) -> list[Candidate]:
        computed = minimax_path(weights, number)
        return [
            Candidate(source="stretches", schedule=scheduled(computed, setting))
            for setting in SETTINGS
        ]
