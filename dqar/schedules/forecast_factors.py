"""What the forecasts of a static plan read of the past, and by which factors; pure.

The same books and factors as a controller's that follows the plan (:mod:`dqar.control.entry_state`,
:mod:`dqar.cache.forecast`), for all steps at once, since all of them are known before the first.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.cache.forecast import forecast_weights, update_rates
from dqar.control.entry_state import EntryState
from dqar.records import Step
from dqar.schedules.static_plan import StaticPlan

CPU = torch.device("cpu")
NOTHING = -1


def orders_read(plan: StaticPlan) -> Int[Tensor, "t g"]:
    """The highest difference that later steps read of what a gate computes: 0 is the value
    itself, -1 nothing. It is -1 where a gate does not compute.

    A reuse reads up to its own order. A computation whose difference of some order is read makes
    it of the differences below, and so reads one order less.
    """
    later = torch.full((plan.mask.shape[1],), NOTHING)
    read = []
    for reuses, order in zip(plan.mask.flip(0), plan.orders.flip(0), strict=True):
        read.append(torch.where(reuses, NOTHING, later))
        later = torch.where(reuses, torch.maximum(later, order), (later - 1).clamp_min(NOTHING))
    return torch.stack(read).flip(0)


def step_factors(plan: StaticPlan) -> Float[Tensor, "t g 2 2"]:
    """Factors of each gate at each step: ``[..., 0, :]`` are the weights of both differences in
    the forecast that it shows, ``[..., 1, :]`` the rates that make them at a computation.

    A weight is 0 where the forecast's order leaves the difference out, and a rate where too little
    was computed before.
    """
    entry_state = EntryState(plan.sites, plan.num_layers, 1, CPU)
    factors = []
    for index, (reuse, order) in enumerate(zip(plan.mask, plan.orders, strict=True)):
        step = Step(index=index, total=plan.steps, timestep=0.0, snr=0.0)
        inputs = entry_state.inputs(step, None, torch.zeros(1), frozenset())
        gap, span = inputs.gap[:, 0], inputs.span[:, 0]
        both = torch.stack([forecast_weights(gap, span, order), update_rates(gap, span)])
        factors.append(both.movedim(-1, 0).float())
        entry_state.close_step(step, ~reuse[:, None], reuse[:, None], {})
    return torch.stack(factors)
