"""Means and medians with their 95% intervals, from values or from sums of values.

SciPy supplies the distributions where its result is the published one; a comment says why it does
not elsewhere. The median's interval never imports SciPy, as the timing benchmarks run without it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

TAIL = 0.025
"""Probability on each side of a 95% interval."""
NORMAL_95 = 1.96
"""Standard errors in half of the 95% interval of a normal mean, rounded as in published results.

``scipy.stats.norm.interval`` has 1.959964, which would change the fifth digit of every
``latent_rel_l2_ci95`` in results.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Mean of some values with its 95% confidence interval.

    Example: 9, 10 and 11 have the mean 10, the standard deviation 1 and the interval [7.5, 12.5].
    """

    mean: float
    """Arithmetic mean of the values."""
    std: float | None
    """Sample standard deviation (n - 1); None for a single value."""
    ci95: tuple[float, float] | None
    """Lower and upper end of the 95% confidence interval of the mean; None for a single value."""
    count: int
    """Number of values."""

    @property
    def half_width(self) -> float:
        """Half of the confidence interval's width; 0 for a single value."""
        return 0.0 if self.ci95 is None else (self.ci95[1] - self.ci95[0]) / 2.0

    def shown(self, form: str) -> str:
        """Format the mean and half of the interval.

        Example: ``spread.shown(".4f") == "0.0150 ± 0.0021"``.
        """
        half = f"{self.half_width:{form}}".removeprefix("+")
        return f"{self.mean:{form}} ± {half}"


def spread_of(values: Sequence[int | float]) -> Spread:
    """Return the mean with its 95% interval by Student's t distribution.

    Meant for few values, such as one for each random seed or each run.

    Raises:
        ValueError: if there are no values.
    """
    return _spread(values, _student_t(len(values) - 1) if len(values) > 1 else 0.0)


def normal_spread_of(values: Sequence[int | float]) -> Spread:
    """Return the mean with its 95% interval by the normal distribution.

    Meant for many values, such as one for each sample.

    Raises:
        ValueError: if there are no values.
    """
    return _spread(values, NORMAL_95)


def _spread(values: Sequence[int | float], quantile: float) -> Spread:
    if not values:
        raise ValueError("values must hold at least one number. Got none. Pass one for each run.")
    count, mean = len(values), statistics.fmean(values)
    if count == 1:
        return Spread(mean=mean, std=None, ci95=None, count=1)
    # statistics.stdev is exact: equal values have a deviation of 0, not of a rounding error.
    std = float(statistics.stdev(values))
    # scipy.stats.t.interval would be NaN for a deviation of 0.
    half = quantile * std / math.sqrt(count)
    return Spread(mean=mean, std=std, ci95=(mean - half, mean + half), count=count)


def _student_t(degrees_of_freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(1.0 - TAIL, degrees_of_freedom))


def standard_error(total: float, squares: float, count: int) -> float:
    """Return the standard error of a mean from sums, which add up over batches and workers.

    ``scipy.stats.sem`` computes the same from the values, which no process holds together.

    Args:
        total: sum of the values.
        squares: sum of the squared values.
        count: number of values; of a single value the standard error is given as 0.
    """
    if count < 2:
        return 0.0
    # Rounding may leave the sum of squared deviations of equal values slightly below 0.
    deviations = squares - count * (total / count) ** 2
    return math.sqrt(max(0.0, deviations) / (count - 1) / count)


def normal_interval(mean: float, error: float) -> tuple[float, float]:
    """Return the 95% interval of a normally distributed mean.

    Args:
        error: standard error of the mean.
    """
    half = NORMAL_95 * error
    return mean - half, mean + half


def median_rank(count: int) -> int:
    """Return the number of ``count`` sorted values below the 95% interval of their median.

    The interval is that of order statistics: the rank is the largest k for which
    ``P(Binomial(count, 1/2) <= k)`` is at most 2.5%. Fewer than 6 values have no interval of 95%;
    then the rank is 0, and the interval is the range of the values.
    """
    # scipy.stats.binom.ppf(TAIL, count, 0.5) - 1 is the same number. The timing benchmarks, which
    # call this, run on machines that have torch and little else: their test forbids SciPy.
    below, rank = 0.0, -1
    while below <= TAIL and rank < count:
        rank += 1
        below += math.comb(count, rank) / 2**count
    return max(0, rank - 1)


def median_spread_of(values: Sequence[float]) -> dict[str, float]:
    """Return the median, with its 95% interval by order statistics as ``low`` and ``high``.

    The interval assumes no distribution of the values.

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
    """Return the median over rounds of the ratio ``over / under``, with its 95% interval.

    Each ratio is taken within one round (paired), so that a round that is slow as a whole does not
    change it.

    Raises:
        ValueError: if there are no rounds, or if the two hold different numbers of rounds.
    """
    return median_spread_of([a / b for a, b in zip(over, under, strict=True)])
