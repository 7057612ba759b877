"""Error of a method at a FLOPs ratio, interpolated, with the share of each sample in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipeline.report.frontier import bracket, frontier_rows
from pipeline.report.rows import ReportRow
from pipeline.statistics import Spread, normal_spread_of, spread_of

AXIS = "flops_ratio"
NEAR = 1.15
"""Largest ratio of two FLOPs ratios at which an operating point counts as measured there."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Error of one method at one FLOPs ratio, measured there or interpolated."""

    method: str
    flops_ratio: float
    error: float
    """Relative L2 error, mean over samples."""
    ci95: Interval | None
    """95% interval of the mean; None for results without intervals."""
    samples: tuple[float, ...] | None
    """Contribution of each sample, with the mean :attr:`error`; None for results without."""
    rows: tuple[ReportRow, ...]
    """The operating point there, or the two between which the log error is interpolated."""


def estimate_at(rows: list[dict[str, Any]], method: str, flops_ratio: float) -> Estimate | None:
    """Return a method's error at a FLOPs ratio; None outside its operating points."""
    parts = bracket(rows, method, AXIS, flops_ratio)
    if not parts:
        return None
    shares, ends = [share for share, _ in parts], [ReportRow.of(row) for _, row in parts]
    error = _geometric([end.latent_rel_l2 for end in ends], shares)
    samples = _contributions(ends, shares, error)
    return Estimate(
        method=method,
        flops_ratio=flops_ratio,
        error=error,
        ci95=_interval(ends, shares, samples),
        samples=samples,
        rows=tuple(ends),
    )


def achieved_at(rows: list[dict[str, Any]], method: str, flops_ratio: float) -> Estimate | None:
    """Return a method's error at a FLOPs ratio, or its smallest error at a larger one.

    A method that is measured at larger savings alone achieves its error there at this saving too.
    None if the method saves less.
    """
    edge = frontier_rows(rows, method, AXIS)
    if not edge or flops_ratio > edge[0][0]:
        return estimate_at(rows, method, flops_ratio)
    return estimate_at(rows, method, edge[0][1][AXIS])


def _geometric(values: list[float], shares: list[float]) -> float:
    if min(values) <= 0 or len(values) == 1:
        return min(values)  # a single value is not rounded by its logarithm
    return math.exp(sum(s * math.log(value) for s, value in zip(shares, values, strict=True)))


def _contributions(
    ends: list[ReportRow], shares: list[float], error: float
) -> tuple[float, ...] | None:
    """Return the contribution of each sample to an interpolated error, by the delta method.

    To first order the log of the interpolated error changes by the shares times the relative
    changes of the errors at both ends, so sample ``i`` contributes
    ``error * sum(share * sample_i / mean)``, whose mean over samples is the error itself.
    """
    columns = [end.latent_rel_l2_samples for end in ends]
    if not all(columns) or len({len(column or ()) for column in columns}) > 1:
        return None
    weights = [error * s / end.latent_rel_l2 for s, end in zip(shares, ends, strict=True)]
    return tuple(
        sum(weight * one for weight, one in zip(weights, sample, strict=True))
        for sample in zip(*(column for column in columns if column), strict=True)
    )


def _interval(
    ends: list[ReportRow], shares: list[float], samples: tuple[float, ...] | None
) -> Interval | None:
    intervals = [end.latent_rel_l2_ci95 for end in ends]
    if len(ends) > 1 and samples is not None:
        spread = normal_spread_of(samples)
        return spread.ci95 and (max(0.0, spread.ci95[0]), spread.ci95[1])
    if None in intervals:
        return None
    lows, highs = zip(*(one for one in intervals if one), strict=True)
    return _geometric(list(lows), shares), _geometric(list(highs), shares)


def paired_difference(row: ReportRow, other: Estimate) -> Spread | None:
    """Return the error of an operating point minus that of another method at the same FLOPs.

    The difference is taken within each sample (paired), with Student's t interval. None if either
    has no error for each sample, or they have errors of different samples.
    """
    mine, theirs = row.latent_rel_l2_samples, other.samples
    if not mine or not theirs or len(mine) != len(theirs) or len(mine) < 2:
        return None
    return spread_of([a - b for a, b in zip(mine, theirs, strict=True)])


def nearest_point(
    rows: list[dict[str, Any]], method: str, flops_ratio: float, within: float = NEAR
) -> ReportRow | None:
    """Return the operating point of a method that is nearest to a FLOPs ratio.

    If another point of the method saves more with a smaller error, that point is returned.

    Args:
        within: None is returned if the FLOPs ratios differ by more than this factor.
    """
    edge = frontier_rows(rows, method, AXIS)
    if not edge:
        return None
    saved, row = min(edge, key=lambda pair: abs(math.log(pair[0] / flops_ratio)))
    is_near = abs(math.log(saved / flops_ratio)) <= math.log(within)
    return ReportRow.of(row) if is_near else None
