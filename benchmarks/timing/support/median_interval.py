"""The middle of repeated measurements, and how far it can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

TAIL = 0.025
"""Of each side of a 95% interval."""


def rank_of_end(count: int) -> int:
    """How many of ``count`` sorted values lie below the interval of their median: the largest k
    with ``P(Binomial(count, 1/2) <= k)`` of at most 2.5%.

    Of fewer than 6 values no interval has 95%; then it is all of them.
    """
    below, rank = 0.0, -1
    while below <= TAIL and rank < count:
        rank += 1
        below += math.comb(count, rank) / 2**count
    return max(0, rank - 1)


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Median, with its 95% interval by order statistics (no distribution assumed).

    Raises:
        ValueError: if there are no values.
    """
    if not values:
        raise ValueError("values must not be empty. Got none. Time at least one round.")
    ordered = sorted(values)
    rank = rank_of_end(len(ordered))
    return {
        "median": statistics.median(ordered),
        "low": ordered[rank],
        "high": ordered[-1 - rank],
    }


def ratio_of(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """Median over rounds of a ratio within the round, with its 95% interval."""
    return spread_of([a / b for a, b in zip(over, under, strict=True)])


def figures_of(name: str, spread: dict[str, float]) -> dict[str, float | list[float]]:
    """A spread as results name it: ``name`` and ``name_ci95``, to four digits that count."""
    low, high = (to_digits(spread[end]) for end in ("low", "high"))
    return {name: to_digits(spread["median"]), f"{name}_ci95": [low, high]}


def to_digits(value: float, digits: int = 4) -> float:
    """Rounded to significant digits."""
    return float(f"{value:.{digits}g}")
