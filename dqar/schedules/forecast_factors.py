"""Coefficients of a static plan's forecasts, and the earlier values that each forecast reads.

A controller that follows the plan computes the same coefficients step by step
(:mod:`dqar.control.entry_state`, :mod:`dqar.cache.forecast`). Here all steps are computed at once,
since the plan fixes them before the first. All functions are pure.
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
    """Return the highest divided difference of each computed value that a later step reads.

    0 stands for the value itself, and -1 for a gate that computes nothing that is read later, or
    does not compute at all. A reuse reads the differences up to its own order. A computation that
    makes the difference of order k reads the previous computation's difference of order k - 1.
    """
    later = torch.full((plan.mask.shape[1],), NOTHING)
    read = []
    for reuses, order in zip(plan.mask.flip(0), plan.orders.flip(0), strict=True):
        read.append(torch.where(reuses, NOTHING, later))
        later = torch.where(reuses, torch.maximum(later, order), (later - 1).clamp_min(NOTHING))
    return torch.stack(read).flip(0)


def step_factors(plan: StaticPlan) -> Float[Tensor, "t g 2 2"]:
    """Return the forecast coefficients of each gate at each step.

    ``[..., 0, :]`` are the weights of the first and second difference in the gate's forecast,
    ``[..., 1, :]`` the rates that turn a change into these differences at a computation. A weight
    is 0 where the order of the forecast leaves the difference out; a rate is 0 where the gate was
    computed too rarely before for the difference to exist.
    """
    entry_state = EntryState(plan.gate_table, 1, CPU)
    factors = []
    for index, (reuse, order) in enumerate(zip(plan.mask, plan.orders, strict=True)):
        step = Step(index=index, total=plan.steps, timestep=0.0, snr=0.0)
        inputs = entry_state.inputs(step, None, torch.zeros(1), frozenset())
        gap, span = inputs.gap[:, 0], inputs.span[:, 0]
        both = torch.stack([forecast_weights(gap, span, order), update_rates(gap, span)])
        factors.append(both.movedim(-1, 0).float())
        entry_state.close_step(step, ~reuse[:, None], reuse[:, None], {})
    return torch.stack(factors)
