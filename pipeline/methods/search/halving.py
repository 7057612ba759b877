"""Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) on common noise samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dqar.step_schedule import StepSchedule
from pipeline.methods.search.measured_errors import MeasuredErrors
from pipeline.methods.search.objective import objective

ROUNDS = (4, 8, 16, 32)
"""Noise samples on which the remaining schedules are compared, by round."""
KEPT = 3
"""One schedule in so many remains after a round."""


def numbers_compared(count: int) -> list[int]:
    """Return the number of schedules that each round compares, of ``count`` in the first."""
    return [math.ceil(count / KEPT**index) for index in range(len(ROUNDS))]


def trajectories_of(count: int) -> int:
    """Return the trajectories of successive halving over ``count`` schedules."""
    more = (late - early for early, late in zip((0, *ROUNDS), ROUNDS, strict=False))
    return sum(number * extra for number, extra in zip(numbers_compared(count), more, strict=True))


def affordable(trajectories: int, most: int) -> int:
    """Return the largest number of schedules, at most ``most``, whose halving costs no more."""
    count = 0
    while count < most and trajectories_of(count + 1) <= trajectories:
        count += 1
    return count


def halve(
    schedules: Sequence[StepSchedule], measured: MeasuredErrors, trajectories: int
) -> list[StepSchedule]:
    """Return the schedules that reached the last round, best first.

    Args:
        schedules: candidates, the most promising first: those beyond what can be afforded are left
            out. If not even one can, the first is returned unmeasured.
        trajectories: most trajectories to spend, reference samples not counted.
    """
    distinct = list(dict.fromkeys(schedules))
    field = distinct[: affordable(trajectories, len(distinct))]
    if not field:
        return distinct[:1]
    for number, samples in zip(numbers_compared(len(field)), ROUNDS, strict=True):
        scores = objective(measured.errors(field[:number], range(samples)))
        field = [field[index] for index in scores.argsort(stable=True).tolist()]
    return field
