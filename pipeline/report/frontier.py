"""Comparison of methods at equal reuse or equal FLOPs.

Each method is measured at a few operating points. Between two of them the logarithm of the error is
interpolated linearly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any, Literal

Axis = Literal["reuse_ratio", "flops_ratio"]


def frontier(rows: Iterable[dict[str, Any]], method: str, axis: Axis) -> list[tuple[float, float]]:
    """Return the ``(saving, error)`` pairs of one method, sorted by the saving.

    Args:
        rows: rows of results.json, of any methods.
        axis: column that measures the saving; larger is cheaper.
    """
    return [(saved, row["latent_rel_l2"]) for saved, row in frontier_rows(rows, method, axis)]


def frontier_rows(
    rows: Iterable[dict[str, Any]], method: str, axis: Axis
) -> list[tuple[float, dict[str, Any]]]:
    """Return each saving of one method, sorted, with the row of the smallest error that saves as
    much or more.

    The pairs form a Pareto frontier: where another operating point of the method saves as much or
    more with a smaller error, that smaller error is taken. Points without error, or with an
    infinite one, are left out, as their logarithm is infinite.

    Args:
        rows: rows of results.json, of any methods.
        axis: column that measures the saving; larger is cheaper.
    """
    points = sorted(
        (row for row in rows if row["method"] == method and 0 < row["latent_rel_l2"] < math.inf),
        key=lambda row: (row[axis], row["latent_rel_l2"]),
    )
    edge = itertools.accumulate(reversed(points), _more_accurate)
    return [(row[axis], best) for row, best in zip(points, reversed(list(edge)), strict=True)]


def _more_accurate(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return min(one, other, key=lambda row: row["latent_rel_l2"])


def error_at(rows: Iterable[dict[str, Any]], method: str, axis: Axis, value: float) -> float | None:
    """Interpolate a method's relative L2 error at one value of ``axis``.

    Returns:
        None where ``value`` lies outside the method's operating points: nothing is extrapolated.
    """
    parts = bracket(rows, method, axis, value)
    if len(parts) < 2:
        return parts[0][1]["latent_rel_l2"] if parts else None
    return math.exp(sum(share * math.log(row["latent_rel_l2"]) for share, row in parts))


def bracket(
    rows: Iterable[dict[str, Any]], method: str, axis: Axis, value: float
) -> list[tuple[float, dict[str, Any]]]:
    """Return the rows between which the log error at ``value`` is interpolated, with their shares.

    Returns:
        One row where an operating point saves exactly ``value``, two rows between operating points,
        none outside them.
    """
    points = frontier_rows(rows, method, axis)
    # Of several points of equal saving the first has the smallest error.
    if exact := [row for saved, row in points if saved == value]:
        return [(1.0, exact[0])]
    for (low, left), (high, right) in itertools.pairwise(points):
        if low < value < high:
            share = (value - low) / (high - low)
            return [(1.0 - share, left), (share, right)]
    return []


def ratio_at(
    rows: list[dict[str, Any]], method: str, other: str, axis: Axis, value: float
) -> float | None:
    """Return the error of ``method`` divided by the error of ``other`` at an equal ``value``.

    A ratio below 1 means that ``method`` is the more accurate. None where either method has no
    operating points on both sides of ``value``.
    """
    mine, theirs = error_at(rows, method, axis, value), error_at(rows, other, axis, value)
    return None if mine is None or theirs is None else mine / theirs
