"""Final error of one reused stretch at a time, and the minimax path over stretches.

The steps are the nodes of a graph; an edge from step i to step j is the stretch that reuses between
them, weighed by the final error where this stretch alone is reused (after LeMiCa,
arXiv 2511.00090).
"""

from __future__ import annotations

from itertools import product
from typing import TypeAlias

import numpy as np

from dqar.step_schedule import StepSchedule
from pipeline.methods.search.measured_errors import MeasuredErrors
from pipeline.methods.search.objective import objective

LENGTHS = (1, 2, 3, 5, 8, 12)
"""Numbers of reused steps of the stretches that are measured."""
STRIDES = (1, 2, 3, 5)
"""Distances between the starts of measured stretches, the finest that can be afforded is taken."""
EDGE_SAMPLES = (4, 2, 1)
"""Noise samples of each stretch, the most that can be afforded at a stride."""
WeightedPath: TypeAlias = tuple[tuple[float, ...], tuple[int, ...]]
"""Weights of a path's stretches, the largest first, and its computed steps."""


def stretch_weights(measured: MeasuredErrors, trajectories: int) -> np.ndarray:
    """Return the mean log error of each stretch, by the computed step before it and its length.

    Lengths beyond the longest of :data:`LENGTHS` are infinite, so that no path takes them.
    """
    steps = measured.steps
    stride, samples = _resolution(steps, trajectories) or (STRIDES[-1], EDGE_SAMPLES[-1])
    stretches = _stretches(steps, stride)
    schedules = [_one_stretch(steps, start, length) for start, length in stretches]
    found = objective(measured.errors(schedules, range(samples))).tolist()
    return _interpolated(dict(zip(stretches, found, strict=True)), steps)


def can_afford_stretches(steps: int, trajectories: int) -> bool:
    """True if so many trajectories can measure the stretches, at the coarsest if need be."""
    return _resolution(steps, trajectories) is not None


def _resolution(steps: int, trajectories: int) -> tuple[int, int] | None:
    """Return the finest stride with the most noise samples that can be afforded; None for none."""
    for stride, samples in product(STRIDES, EDGE_SAMPLES):
        if len(_stretches(steps, stride)) * samples <= trajectories:
            return stride, samples
    return None


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
