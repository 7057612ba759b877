"""Means and medians with their 95% intervals, from values or from sums."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

TAIL = 0.025
"""Probability on each side of a 95% interval."""
NORMAL_95 = 1.96
"""Standard errors in half of the 95% interval of a normal mean, rounded as in published results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Mean of some values with its interval.

    Example: 9, 10 and 11 have the mean 10, the standard deviation 1 and the interval [7.5, 12.5].
    """

    mean: float
    std: float | None
    """Sample standard deviation (n - 1); None for a single value."""
    ci95: tuple[float, float] | None
    """95% confidence interval of the mean; None for a single value."""
    count: int
    """Number of values."""

    @property
    def half_width(self) -> float:
        """Half of the confidence interval; 0 where there is none."""
        return 0.0 if self.ci95 is None else (self.ci95[1] - self.ci95[0]) / 2.0

    def shown(self, form: str) -> str:
        """Mean and half of the interval. Example: ``spread.shown(".4f") == "0.0150 ± 0.0021"``."""
        half = f"{self.half_width:{form}}".removeprefix("+")
        return f"{self.mean:{form}} ± {half}"


def spread_of(values: Sequence[int | float]) -> Spread:
    """Mean with its interval by Student's t, for few values such as one a seed or a run.

    Raises:
        ValueError: without a value.
    """
    return _spread(values, _student_t(len(values) - 1) if len(values) > 1 else 0.0)


def normal_spread_of(values: Sequence[int | float]) -> Spread:
    """Mean with its interval by the normal distribution, for many values such as one a sample.

    Raises:
        ValueError: without a value.
    """
    return _spread(values, NORMAL_95)


def _spread(values: Sequence[int | float], quantile: float) -> Spread:
    if not values:
        raise ValueError("values must hold at least one run. Got none. Pass one a run.")
    count, mean = len(values), statistics.fmean(values)
    if count == 1:
        return Spread(mean=mean, std=None, ci95=None, count=1)
    # Exact: equal values have a deviation of 0, not of a rounding error.
    std = float(statistics.stdev(values))
    half = quantile * std / math.sqrt(count)
    return Spread(mean=mean, std=std, ci95=(mean - half, mean + half), count=count)


def _student_t(freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(1.0 - TAIL, freedom))


def standard_error(total: float, squares: float, count: int) -> float:
    """Standard error of a mean from sums, which add up over batches; 0 for a single value.

    Args:
        total: sum of the values.
        squares: sum of their squares.
    """
    if count < 2:
        return 0.0
    # Rounding may leave the variance of equal values slightly below 0.
    deviations = squares - count * (total / count) ** 2
    return math.sqrt(max(0.0, deviations) / (count - 1) / count)


def normal_interval(mean: float, error: float) -> tuple[float, float]:
    """95% interval of a mean that is normal.

    Args:
        error: its standard error.
    """
    half = NORMAL_95 * error
    return mean - half, mean + half


def median_rank(count: int) -> int:
    """Number of ``count`` sorted values below the interval of their median.

    It is the largest k with ``P(Binomial(count, 1/2) <= k)`` of at most 2.5%. Fewer than 6 values
    have no interval of 95%: then it is 0, and the interval is their range.
    """
    # Without scipy: timings are taken on machines that have torch and little else.
    below, rank = 0.0, -1
    while below <= TAIL and rank < count:
        rank += 1
        below += math.comb(count, rank) / 2**count
    return max(0, rank - 1)


def median_spread_of(values: Sequence[float]) -> dict[str, float]:
    """Median, with its 95% interval by order statistics (no distribution assumed).

    Raises:
        ValueError: if there are no values.
    """
    if not values:
        raise ValueError("values must not be empty. Got none. Time at least one round.")
    ordered = sorted(values)
    rank = median_rank(len(ordered))
    return {
        "median": statistics.median(ordered),
        "low": ordered[rank],
        "high": ordered[-1 - rank],
    }


def ratio_of(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """Median over rounds of the ratio within each round (paired), with its 95% interval."""
    return median_spread_of([a / b for a, b in zip(over, under, strict=True)])
