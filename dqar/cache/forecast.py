"""Forecasts: a value that is not computed, continued along its own past.

Newton's polynomial through the last computations, in the step variable. A value computed at the
steps ``t0 > t1 > t2`` as ``v0, v1, v2`` has the divided differences

    d1 = (v0 - v1) / (t0 - t1),    d2 = (d1 - d1_before) / (t0 - t2),

and is continued at a later step t as

    v0 + (t - t0) d1 + (t - t0)(t - t1) d2.

Exact for polynomials of the order's degree, however irregular the steps. TaylorSeer (Liu et al.
2025, arXiv 2503.06923) continues features likewise, with differences of equal steps.

Below, *gap* is ``t - t0`` and *span* is ``t0 - t1``. What an order multiplies its difference by is
its *weight*; what a change is multiplied by to become a difference is its *rate*.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Factor = float | Float[Tensor, " r"]
"""One for all rows of a value, or one a row."""


def forecast_weights(
    gap: Int[Tensor, "*axes"], span: Int[Tensor, "*axes"], order: Int[Tensor, "*axes"]
) -> Float[Tensor, "2 *axes"]:
    """Weights of the first and the second difference in a forecast of each order: ``gap`` and
    ``gap * (gap + span)``, 0 for differences that the order leaves out."""
    first = torch.where(order >= 1, gap, 0)
    second = torch.where(order >= 2, gap * (gap + span), 0)
    return torch.stack([first, second]).double()


def update_rates(gap: Int[Tensor, "*axes"], span: Int[Tensor, "*axes"]) -> Float[Tensor, "2 *axes"]:
    """Rates that make differences at a computation: ``1 / gap`` and ``1 / (gap + span)``, 0 where
    too little was computed before (a gap of 0, a span of 0) for there to be one."""
    both = torch.stack([gap, gap + span])
    is_known = torch.stack([gap > 0, (gap > 0) & (span > 0)])
    return torch.where(is_known, 1.0 / both.clamp_min(1).double(), 0.0)


def forecast(
    value: Float[Tensor, "r *axes"],
    differences: Sequence[Float[Tensor, "r *axes"]],
    weights: Sequence[Factor],
) -> Float[Tensor, "r *axes"]:
    """The value continued along its differences; itself, not a copy, where there are none."""
    total = value
    for difference, weight in zip(differences, weights, strict=True):
        if isinstance(weight, Tensor):
            # In float32, and back: weights of a large gap are not exact in 16 bits.
            by_row = beside(weight, value)
            total = torch.addcmul(total, difference, by_row).to(value.dtype)
        else:
            total = torch.add(total, difference, alpha=weight)
    return total


def divided_difference(
    value: Float[Tensor, "s *axes"], earlier: Float[Tensor, "s *axes"], rate: Factor
) -> Float[Tensor, "s *axes"]:
    """``(value - earlier) * rate``: the difference of the next order."""
    factor = beside(rate, value) if isinstance(rate, Tensor) else rate
    return torch.sub(value, earlier).mul_(factor)


def beside(factor: Float[Tensor, " r"], value: Tensor) -> Float[Tensor, "r *ones"]:
    """A factor by row, in the axes of a value."""
    return factor.view(-1, *(1,) * (value.ndim - 1))
