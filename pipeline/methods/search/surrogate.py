"""Surrogate of a search: predicted log errors, corrected by a Gaussian process on measured ones.

The prior mean is the damage model's prediction where there is one. The Gaussian process (Rasmussen
and Williams 2006, algorithm 2.1) is over the schedules' differences from one reference schedule,
each a mean of paired differences of log errors. Two schedules are alike if each computed step has
moved little, in units of the gap where it lies, and if their gains and forecast orders are alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dqar.step_schedule import StepSchedule

SPREAD = 0.2
"""Prior standard deviation of what the prediction errs by, in units of the log error."""
LENGTH = 1.5
"""Root of the sum of squared moves, in gaps, at which schedules are no longer alike."""
GAIN_LENGTH = 0.25
"""Difference of gains at which schedules are no longer alike."""
OTHER_ORDER = 0.6
"""Likeness of schedules of different forecast orders that are otherwise equal."""
NOISE = 0.3
"""Standard deviation, over noise samples, of the paired difference of two schedules' log errors
(docs/LOG.md: 0.30 among the dozen best schedules of 12 computed steps)."""
Prediction = Callable[[StepSchedule], float]
"""Predicts the log error of a schedule, up to a constant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Belief:
    """Mean and standard deviation of the log error of schedules, less the reference's."""

    mean: np.ndarray
    """Expected difference of each schedule."""
    std: np.ndarray
    """Standard deviation of that difference."""

    def expected_improvement(self, least: float) -> np.ndarray:
        """Return how far below ``least`` each schedule is expected to be; 0 where it is above."""
        std = np.maximum(self.std, 1e-9)
        margin = (least - self.mean) / std
        density = np.exp(-0.5 * margin**2) / math.sqrt(2.0 * math.pi)
        share = 0.5 * (1.0 + np.vectorize(math.erf)(margin / math.sqrt(2.0)))
        return std * (margin * share + density)


class Surrogate:
    """Prediction of the log error of schedules that have as many computed steps as a reference.

    Args:
        reference: schedule whose log error is the origin.
        steps: sampling steps.
        predicted: prior mean, up to a constant.
    """

    def __init__(self, reference: StepSchedule, steps: int, predicted: Prediction) -> None:
        self._ranks = np.arange(len(reference) + 1.0)
        self._places = np.array([*reference.computed, steps], dtype=float)
        self._predicted = predicted
        self._origin = predicted(reference)
        self._known: list[StepSchedule] = [reference]
        self._differences: list[float] = [0.0]
        self._variances: list[float] = [1e-6]

    def observe(self, schedule: StepSchedule, difference: float, samples: int) -> None:
        """Add the mean difference of log errors from the reference, over some noise samples."""
        variance = NOISE**2 / samples
        if schedule in self._known:
            index = self._known.index(schedule)
            self._differences[index], self._variances[index] = difference, variance
            return
        self._known.append(schedule)
        self._differences.append(difference)
        self._variances.append(variance)

    def believe(self, schedules: Sequence[StepSchedule]) -> Belief:
        """Return what measurement and prediction say about schedules."""
        prior, known = self._prior(schedules), self._prior(self._known)
        covariance = self._likeness(self._known, self._known) + np.diag(self._variances)
        across = self._likeness(schedules, self._known)
        solved = np.linalg.solve(covariance, across.T)
        mean = prior + solved.T @ (np.array(self._differences) - known)
        variance = SPREAD**2 - np.einsum("nk,kn->n", across, solved)
        return Belief(mean=mean, std=np.sqrt(np.maximum(variance, 0.0)))

    def _prior(self, schedules: Sequence[StepSchedule]) -> np.ndarray:
        return np.array([self._predicted(one) - self._origin for one in schedules])

    def _likeness(self, some: Sequence[StepSchedule], others: Sequence[StepSchedule]) -> np.ndarray:
        moves, other_moves = self._moves(some), self._moves(others)
        distance = ((moves[:, None] - other_moves[None]) ** 2).sum(axis=2) / LENGTH**2
        # The exponential kernel: errors are rough from one step to the next (docs/LOG.md), and a
        # smooth kernel would extrapolate the slope between two measured neighbours.
        gains = _column(some, "feedback")[:, None] - _column(others, "feedback")[None]
        same = _column(some, "forecast_order")[:, None] == _column(others, "forecast_order")[None]
        factor = np.where(same, 1.0, OTHER_ORDER)
        return SPREAD**2 * factor * np.exp(-np.sqrt(distance + (gains / GAIN_LENGTH) ** 2))

    def _moves(self, schedules: Sequence[StepSchedule]) -> np.ndarray:
        """Return how far each computed step is from the reference's, in gaps of the reference."""
        places = np.array([one.computed for one in schedules], dtype=float)
        return np.interp(places, self._places, self._ranks) - self._ranks[:-1]


def _column(schedules: Sequence[StepSchedule], name: str) -> np.ndarray:
    return np.array([getattr(one, name) for one in schedules], dtype=float)
