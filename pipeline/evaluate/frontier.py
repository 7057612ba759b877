"""Comparison of methods at equal reuse or equal FLOPs.

Each method is measured at a few operating points. Between two of them the logarithm of the error is
interpolated linearly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

Axis = Literal["reuse_ratio", "flops_ratio"]


def frontier(rows: Iterable[dict[str, Any]], method: str, axis: Axis) -> list[tuple[float, float]]:
    """Return the ``(saving, error)`` pairs of one method, sorted by the saving.

    The pairs form a Pareto frontier: where another operating point of the method saves as much or
    more with a smaller error, that smaller error is taken. Points without error are left out, as
    their logarithm is infinite.

    Args:
        rows: rows of results.json, of any methods.
        axis: column that measures the saving; larger is cheaper.
    """
    points = sorted(
        (row[axis], row["latent_rel_l2"])
        for row in rows
        if row["method"] == method and row["latent_rel_l2"] > 0
    )
    errors = itertools.accumulate((error for _, error in reversed(points)), min)
    return [
        (saved, error) for (saved, _), error in zip(points, reversed(list(errors)), strict=True)
    ]


def error_at(rows: Iterable[dict[str, Any]], method: str, axis: Axis, value: float) -> float | None:
    """Interpolate a method's relative L2 error at one value of ``axis``.

    Returns:
        None where ``value`` lies outside the method's operating points: nothing is extrapolated.
    """
    points = frontier(rows, method, axis)
    # Among points of equal saving np.interp would return the largest error, not the smallest.
    exact = next((error for saved, error in points if saved == value), None)
    if exact is not None or not points or not points[0][0] <= value <= points[-1][0]:
        return exact
    saved, errors = zip(*points, strict=True)
    return math.exp(np.interp(value, saved, np.log(errors)))


def ratio_at(
    rows: list[dict[str, Any]], method: str, other: str, axis: Axis, value: float
) -> float | None:
    """Return the error of ``method`` divided by the error of ``other`` at an equal ``value``.

    A ratio below 1 means that ``method`` is the more accurate. None where either method has no
    operating points on both sides of ``value``.
    """
    mine, theirs = error_at(rows, method, axis, value), error_at(rows, other, axis, value)
    return None if mine is None or theirs is None else mine / theirs
