"""Exponent of a power law fitted to measured costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.timing.support.median_interval import figures_of
from pipeline.statistics import median_spread_of


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Least-squares slope of log cost over log size; 1 if twice the size costs twice as much.

    Raises:
        ValueError: if there are fewer than two sizes, or if one of the numbers is not above 0.
    """
    if len(set(sizes)) < 2:
        raise ValueError(f"sizes must hold two different values. Got {list(sizes)}. Add one.")
    if min(*sizes, *costs) <= 0:
        raise ValueError(
            f"sizes and costs must be above 0. Got {list(sizes)}, {list(costs)}. "
            "Leave out rounds whose cost is 0 or less."
        )
    slope, _ = statistics.linear_regression([*map(math.log, sizes)], [*map(math.log, costs)])
    return slope


def exponent_figures(costs: Mapping[int, Sequence[float]]) -> dict[str, Any] | None:
    """The exponent's median over rounds, with its 95% interval.

    Args:
        costs: by size, one for each round. Rounds with a cost of 0 or less are left out.

    Returns:
        The figures as JSON; None if no round is left.
    """
    rounds = [row for row in zip(*costs.values(), strict=True) if min(row) > 0]
    if not rounds:
        return None
    slopes = [exponent([*costs], row) for row in rounds]
    return figures_of("exponent", median_spread_of(slopes)) | {"rounds": len(slopes)}
