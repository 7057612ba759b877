"""Search on the final output for a fixed number of computed steps, without any model of damage.

After BudCache's public description (arXiv 2606.13496): for a fixed number of computed steps,
simulated annealing over the steps, then hill climbing, each by the error of the final output. It
differs from the paper: the final latent's relative L2 error is the objective in place of the
paper's image metric; the forecast order and the gain of the error feedback, which the paper does
not have, are moves too; the paper's realignment of timesteps at tight budgets is left out; and the
evaluations are limited by ``--tuning-evaluations``.
"""

from __future__ import annotations

import math
import random

from jaxtyping import Float
from torch import Tensor

from dqar.step_schedule import StepSchedule
from pipeline.methods.base import (
    CalibrationBudget,
    CalibrationCost,
    Method,
    OperatingPoint,
    Session,
)
from pipeline.methods.search.frontier import numbers_of_grid, point_of, shared_trajectories
from pipeline.methods.search.measured_errors import MeasuredErrors
from pipeline.methods.search.moves import random_move
from pipeline.methods.search.objective import objective
from pipeline.methods.search.spacing import SETTINGS, spaced_steps

CHAINS = 4
"""Chains of the annealing, and tries of each round of the hill climbing: measured together."""
ANNEALED_ON = 4
"""Noise samples of each try of the annealing."""
CLIMBED_ON = 16
"""Noise samples of each try of the hill climbing."""
ANNEALING_SHARE = 0.5
"""Share of a point's trajectories that the annealing takes."""
WARMEST, COLDEST = 0.2, 0.01
"""First and last temperature of the annealing, in units of the mean log error."""


class BudgetSearch(Method):
    """Simulated annealing and hill climbing from the even schedule, by the final error."""

    name = "budget-search"

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        measured = MeasuredErrors(session.calibrate, session.steps)
        numbers = numbers_of_grid(session.comparison.grid, session.steps)
        self._points = []
        for index, number in enumerate(numbers):
            left = len(numbers) - index
            trajectories = shared_trajectories(budget, measured, left, CLIMBED_ON)
            best = searched(number, measured, trajectories)
            self._points.append(point_of(self.name, best, session.steps, "search"))
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        return self._points


def searched(number: int, measured: MeasuredErrors, trajectories: int) -> StepSchedule:
    """Return the best schedule that annealing and hill climbing find.

    Args:
        number: number of computed steps.
        measured: errors of schedules, which the search adds to.
        trajectories: most trajectories to spend.
    """
    draws = random.Random(number)
    rounds = _rounds(int(ANNEALING_SHARE * trajectories))
    if _tries(trajectories, rounds) < CHAINS:  # annealing takes what is too little to climb with
        rounds = _rounds(trajectories)
    start = _even(number, measured, rounds)
    best = _annealed(start, measured, rounds - 1, draws)
    return _climbed(best, measured, _tries(trajectories, rounds), draws)


def _rounds(trajectories: int) -> int:
    """Return the rounds of annealing that so many trajectories pay for."""
    return trajectories // (CHAINS * ANNEALED_ON)


def _tries(trajectories: int, rounds: int) -> int:
    """Return the tries of hill climbing that some rounds of annealing leave."""
    return (trajectories - rounds * CHAINS * ANNEALED_ON - CLIMBED_ON) // CLIMBED_ON


def _even(number: int, measured: MeasuredErrors, rounds: int) -> StepSchedule:
    """Return the even schedule with the setting of the least error."""
    computed = spaced_steps(number, measured.steps, late=1.0)
    even = [
        StepSchedule(computed=computed, forecast_order=order, feedback=gain)
        for order, gain in SETTINGS
    ]
    return even[int(_scores(even, measured, ANNEALED_ON).argmin())] if rounds else even[0]


def _annealed(
    start: StepSchedule, measured: MeasuredErrors, rounds: int, draws: random.Random
) -> StepSchedule:
    """Return the best schedule that chains of simulated annealing meet (Kirkpatrick et al. 1983).

    Args:
        rounds: tries of each chain.
    """
    if rounds <= 0:
        return start
    score = float(_scores([start], measured, ANNEALED_ON)[0])
    chains = [(start, score)] * CHAINS
    best, least = start, score
    for index in range(rounds):
        temperature = WARMEST * (COLDEST / WARMEST) ** (index / rounds)
        tried = [random_move(now, measured.steps, draws) for now, _ in chains]
        found = _scores(tried, measured, ANNEALED_ON).tolist()
        for chain, (schedule, error) in enumerate(zip(tried, found, strict=True)):
            excess = max(0.0, error - chains[chain][1])
            if draws.random() < math.exp(-excess / temperature):
                chains[chain] = schedule, error
            if error < least:
                best, least = schedule, error
    return best


def _climbed(
    start: StepSchedule, measured: MeasuredErrors, tries: int, draws: random.Random
) -> StepSchedule:
    """Return the schedule that hill climbing ends at: the best of each round's tries, if better."""
    if tries < CHAINS:
        return start
    best, least = start, float(_scores([start], measured, CLIMBED_ON)[0])
    for _ in range(tries // CHAINS):
        tried = [random_move(best, measured.steps, draws) for _ in range(CHAINS)]
        found = _scores(tried, measured, CLIMBED_ON)
        if float(found.min()) < least:
            best, least = tried[int(found.argmin())], float(found.min())
    return best


def _scores(
    schedules: list[StepSchedule], measured: MeasuredErrors, samples: int
) -> Float[Tensor, " n"]:
    return objective(measured.errors(schedules, range(samples)))
