"""Forecasts of values that are not computed, by Newton's divided-difference extrapolation.

The forecast is Newton's interpolation polynomial through the last computed values, with the step
index as its variable. A value computed at the steps ``t0 > t1 > t2`` as ``v0, v1, v2`` has the
divided differences

    d1 = (v0 - v1) / (t0 - t1),    d2 = (d1 - d1_before) / (t0 - t2),

and its forecast of second order at a later step t is

    v0 + (t - t0) d1 + (t - t0)(t - t1) d2.

A forecast of first order leaves the last term out. A forecast of order k is exact for polynomials
of degree k, at regular and irregular steps alike. TaylorSeer (Liu et al. 2025, arXiv 2503.06923)
forecasts features in the same way, but with the finite differences of equally spaced steps.

Below, *gap* is ``t - t0`` and *span* is ``t0 - t1``. A *weight* is the factor of a difference in
the forecast; a *rate* is the factor that turns a change of value into a divided difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Factor = float | Float[Tensor, " r"]
"""A factor for all rows of a value, or one factor for each row."""


def forecast_weights(
    gap: Int[Tensor, "*axes"], span: Int[Tensor, "*axes"], order: Int[Tensor, "*axes"]
) -> Float[Tensor, "2 *axes"]:
    """Return the weights of the first and second difference in forecasts of the given orders:
    ``gap`` and ``gap * (gap + span)``, and 0 for a difference above the order."""
    first = torch.where(order >= 1, gap, 0)
    second = torch.where(order >= 2, gap * (gap + span), 0)
    return torch.stack([first, second]).double()


def update_rates(gap: Int[Tensor, "*axes"], span: Int[Tensor, "*axes"]) -> Float[Tensor, "2 *axes"]:
    """Return the rates of the first and second difference at a computation: ``1 / gap`` and
    ``1 / (gap + span)``. A rate is 0 where the difference does not exist yet: the first without an
    earlier computation (gap 0), the second without two (span 0)."""
    both = torch.stack([gap, gap + span])
    is_known = torch.stack([gap > 0, (gap > 0) & (span > 0)])
    return torch.where(is_known, 1.0 / both.clamp_min(1).double(), 0.0)


def forecast(
    value: Float[Tensor, "r *axes"],
    differences: Sequence[Float[Tensor, "r *axes"]],
    weights: Sequence[Factor],
) -> Float[Tensor, "r *axes"]:
    """Return ``value + sum(weight * difference)``; without differences, ``value`` itself."""
    total = value
    for difference, weight in zip(differences, weights, strict=True):
        if isinstance(weight, Tensor):
            # Computed in float32 and cast back: 16 bits do not hold a large gap's weight exactly.
            by_row = beside(weight, value)
            total = torch.addcmul(total, difference, by_row).to(value.dtype)
        else:
            total = torch.add(total, difference, alpha=weight)
    return total


def divided_difference(
    value: Float[Tensor, "s *axes"], earlier: Float[Tensor, "s *axes"], rate: Factor
) -> Float[Tensor, "s *axes"]:
    """Return ``(value - earlier) * rate``, the divided difference of the next order."""
    factor = beside(rate, value) if isinstance(rate, Tensor) else rate
    return torch.sub(value, earlier).mul_(factor)


def beside(factor: Float[Tensor, " r"], value: Tensor) -> Float[Tensor, "r *ones"]:
    """Reshape one factor per row so that it broadcasts over the axes of ``value``."""
    return factor.view(-1, *(1,) * (value.ndim - 1))
