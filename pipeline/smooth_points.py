"""Operating points of ``smoothcache``: a static schedule for each site type, from curves measured
once on calibration noise (after SmoothCache, Liu et al. 2024, arXiv 2411.10510).

As in the paper a site type goes on reusing while its curve, the mean over samples and layers of the
relative L1 distance from the cached output, is at most alpha; one alpha serves all site types; what
is reused is the value as it is. Other than there, gaps of up to
:attr:`pipeline.methods.smoothcache.CurveProbe.largest_gap` steps are allowed (the paper's three
reach no more than three quarters reused), and the last step may reuse. Alpha is chosen for the
reuse ratio alone, by arithmetic on the curves: no schedule is sampled before it is a point.

``smoothcache-tied`` takes one schedule for all site types, from the mean of their curves. It is no
method of the paper's: sites that are stale at different steps disturb each other.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqar.gates.rules import Scripted
from pipeline.methods.base import Grid, Point
from pipeline.methods.smoothcache import Curves

METHODS = ("smoothcache", "smoothcache-tied")
PAPERS, TIED = METHODS


def smooth_points(method: str, grid: Grid, curves: Curves) -> list[Point]:
    """The schedule nearest each reuse ratio of a grid.

    Args:
        method: one of :data:`METHODS`.
    """
    num_sites, num_layers = curves.error.shape[:2]
    error = curves.error.mean(dim=1)
    if method == TIED:
        error = error.mean(dim=0, keepdim=True)
    alphas = alphas_for(grid.reuse_ratios, error)
    gates = schedules(error, alphas).expand(-1, num_sites, -1)
    gates = gates.repeat_interleave(num_layers, dim=1)
    return [_point(method, float(alpha), one) for alpha, one in zip(alphas, gates, strict=True)]


def schedules(error: Float[Tensor, "s k t"], alphas: Float[Tensor, " a"]) -> Bool[Tensor, "a s t"]:
    """Where each site type reuses, for each threshold: it computes the first step, and then each
    whose curve at the present gap is above alpha, or whose gap is longer than the curves know.

    Args:
        error: curves by site type, gap (from 1 on) and step; what is NaN is above any alpha.
    """
    num_sites, largest_gap, steps = error.shape
    reuse = torch.zeros(len(alphas), num_sites, steps, dtype=torch.bool)
    reused = torch.zeros(len(alphas), num_sites, dtype=torch.long)
    site = torch.arange(num_sites)
    for step in range(1, steps):
        known = error[site, reused.clamp_max(largest_gap - 1), step]
        reuse[:, :, step] = (reused < largest_gap) & (known <= alphas[:, None])
        reused = (reused + 1) * reuse[:, :, step]
    return reuse


def alphas_for(ratios: tuple[float, ...], error: Float[Tensor, "s k t"]) -> Float[Tensor, " a"]:
    """The thresholds whose schedules come nearest the ratios, each once; the least of several.

    A schedule changes only where alpha passes a value of the curves, so all that there are can be
    looked at. More alpha need not be more reuse where curves are rough, so nothing is bisected.
    """
    values = error[error.isfinite()].unique()
    options = torch.cat([values.new_zeros(1), values])
    achieved = schedules(error, options).double().mean(dim=(1, 2))
    chosen = [int((achieved - ratio).abs().argmin()) for ratio in ratios]
    return options[sorted(set(chosen))]


def _point(method: str, alpha: float, reuse: Bool[Tensor, "g t"]) -> Point:
    return Point(
        method=method,
        operating_point=f"alpha={alpha:.6g}",
        steps=reuse.shape[1],
        gate=Scripted(reuse.T[:, :, None]),
    )
