"""Schedules from the final error of one cached stretch at a time, by a minimax path.

After LeMiCa's public description (arXiv 2511.00090): the steps are the nodes of a graph, an edge
from step i to step j is the stretch that reuses between them, and its weight is the error of the
final latent where this stretch alone is reused. The schedule with K computed steps is the path of K
edges whose sorted weights are lexicographically least: its worst stretch is as good as it can be,
then its second worst, and so on. It differs from the paper: the error is the final latent's
relative L2 (mean log over noise samples); edges are measured with the cached value shown, at some
lengths and starts, and interpolated between; and the schedule is then shown with the forecast order
and the gain of the error feedback that err least on calibration noise, which the paper does not
have.
"""

from __future__ import annotations

from itertools import product
from typing import TypeAlias

import numpy as np

from dqar.step_schedule import ReuseSetting, StepSchedule
from pipeline.methods.base import (
    CalibrationBudget,
    CalibrationCost,
    Method,
    OperatingPoint,
    Session,
)
from pipeline.methods.search.frontier import numbers_of_grid, point_of, shared_trajectories
from pipeline.methods.search.halving import ROUNDS, halve
from pipeline.methods.search.measured_errors import MeasuredErrors
from pipeline.methods.search.objective import objective

LENGTHS = (1, 2, 3, 5, 8, 12)
"""Numbers of reused steps of the stretches that are measured."""
STRIDES = (1, 2, 3, 5)
"""Distances between the starts of measured stretches, the finest that can be afforded is taken."""
EDGE_SAMPLES = (4, 2, 1)
"""Noise samples of each stretch, the most that can be afforded at a stride."""
EDGE_SHARE = 0.6
"""Share of the tuning budget for the stretches; the rest chooses forecast orders and gains."""
UNBOUNDED_EDGES = 2000
"""Trajectories for the stretches where the evaluation sets no budget."""
SETTINGS: tuple[ReuseSetting, ...] = tuple(
    [(0, 0.0), (0, 0.4), (0, 0.8), *product((1, 2), (0.3, 0.5, 0.15, 0.0))]
)
"""Forecast orders and gains that each schedule is tried with."""


WeightedPath: TypeAlias = tuple[tuple[float, ...], tuple[int, ...]]
"""Weights of a path's stretches, the largest first, and its computed steps."""


class OneStretch(Method):
    """Minimax path over stretches, each weighed by its own final error."""

    name = "one-stretch"

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        measured = MeasuredErrors(session.calibrate, session.steps)
        allowed = budget.trajectories(session.steps, ROUNDS[-1])
        weights = stretch_weights(
            measured, UNBOUNDED_EDGES if allowed is None else int(EDGE_SHARE * allowed)
        )
        numbers = numbers_of_grid(session.comparison.grid, session.steps)
        self._points = []
        for index, number in enumerate(numbers):
            left = len(numbers) - index
            trajectories = shared_trajectories(budget, measured, left, ROUNDS[-1])
            computed = minimax_path(weights, number)
            schedules = [
                StepSchedule(computed=computed, forecast_order=order, feedback=gain)
                for order, gain in SETTINGS
            ]
            best = halve(schedules, measured, trajectories)[0]
            self._points.append(point_of(self.name, best, session.steps))
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        return self._points


def stretch_weights(measured: MeasuredErrors, trajectories: int) -> np.ndarray:
    """Return the mean log error of each stretch, by the computed step before it and its length.

    Lengths beyond the longest of :data:`LENGTHS` are infinite, so that no path takes them.
    """
    steps = measured.steps
    stride, samples = next(
        (
            (stride, samples)
            for stride, samples in product(STRIDES, EDGE_SAMPLES)
            if len(_stretches(steps, stride)) * samples <= trajectories
        ),
        (STRIDES[-1], EDGE_SAMPLES[-1]),
    )
    stretches = _stretches(steps, stride)
    schedules = [_one_stretch(steps, start, length) for start, length in stretches]
    found = objective(measured.errors(schedules, range(samples))).tolist()
    return _interpolated(dict(zip(stretches, found, strict=True)), steps)


def _stretches(steps: int, stride: int) -> list[tuple[int, int]]:
    """Return the (computed step, length) of the stretches to measure."""
    return [(start, length) for length in LENGTHS for start in _starts(steps, length, stride)]


def _starts(steps: int, length: int, stride: int) -> list[int]:
    """Return the starts of the stretches of a length, the last possible one among them."""
    last = steps - 1 - length
    return sorted({*range(0, last + 1, stride), last}) if last >= 0 else []


def _one_stretch(steps: int, start: int, length: int) -> StepSchedule:
    reused = range(start + 1, start + 1 + length)
    return StepSchedule(computed=tuple(one for one in range(steps) if one not in reused))


def _interpolated(found: dict[tuple[int, int], float], steps: int) -> np.ndarray:
    """Interpolate between starts, then between the logarithms of the lengths."""
    lengths = [one for one in LENGTHS if one < steps]
    by_length = []
    for length in lengths:
        starts = sorted(start for start, other in found if other == length)
        values = [found[start, length] for start in starts]
        by_length.append(np.interp(np.arange(steps), starts, values))
    table = np.full((steps, steps), np.inf)
    table[:, 0] = -np.inf
    for start in range(steps):
        column = [one[start] for one in by_length]
        for length in range(1, lengths[-1] + 1):
            table[start, length] = np.interp(np.log(length), np.log(lengths), column)
    return table


def minimax_path(weights: np.ndarray, number: int) -> tuple[int, ...]:
    """Return ``number`` computed steps whose sorted stretch weights are lexicographically least.

    Adding the same weight to two sorted lists keeps their order, so Bellman's recursion over the
    step and the number of computed steps is exact. If no path has only known stretches, the even
    schedule is returned.

    Args:
        weights: by computed step and number of reused steps after it; minus infinity for none.
    """
    steps = len(weights)
    ends: dict[int, WeightedPath] = {0: ((), (0,))}
    for _ in range(number - 1):
        further: dict[int, WeightedPath] = {}
        for start, (worst, computed) in ends.items():
            for step in range(start + 1, steps):
                weight = weights[start, step - start - 1]
                if weight == np.inf:
                    break
                path = _sorted_with(worst, float(weight)), (*computed, step)
                if step not in further or path < further[step]:
                    further[step] = path
        ends = further
    paths = [
        (_sorted_with(worst, float(weights[last, steps - last - 1])), computed)
        for last, (worst, computed) in ends.items()
        if weights[last, steps - last - 1] < np.inf
    ]
    if not paths:
        return tuple(index * steps // number for index in range(number))
    return min(paths)[1]


def _sorted_with(worst: tuple[float, ...], weight: float) -> tuple[float, ...]:
    """Return the weights with one more, the largest first."""
    at = sum(one >= weight for one in worst)
    return (*worst[:at], weight, *worst[at:])
