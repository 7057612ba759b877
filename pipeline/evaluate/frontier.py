"""Comparison of sweeps at equal reuse or FLOPs: log error, linear between points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any, Literal

Axis = Literal["reuse_ratio", "flops_ratio"]


def frontier(rows: Iterable[dict[str, Any]], method: str, axis: Axis) -> list[tuple[float, float]]:
    """A method's ``(axis, error)`` points by growing axis.

    A point that saves less and errs more than another of the same method is given the other's
    error (the Pareto frontier): a user would choose the other.
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
    """Error of a sweep at ``value``; None outside its points, since nothing is extrapolated."""
    points = frontier(rows, method, axis)
    for (low, low_error), (high, high_error) in itertools.pairwise(points):
        if low <= value <= high:
            share = 0.0 if high == low else (value - low) / (high - low)
            mixed = (1 - share) * math.log(low_error) + share * math.log(high_error)
            return math.exp(mixed)
    return next((error for saved, error in points if saved == value), None)


def ratio_at(
    rows: list[dict[str, Any]], method: str, other: str, axis: Axis, value: float
) -> float | None:
    """Error of ``method`` over error of ``other`` at an equal ``value``."""
    mine, theirs = error_at(rows, method, axis, value), error_at(rows, other, axis, value)
    return None if mine is None or theirs is None else mine / theirs
