"""Coefficients of a plan's forecasts, and the differences they read, against a controller's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.cache.forecast import forecast_weights, update_rates
from dqar.schedules.forecast_factors import orders_read, step_factors
from dqar.schedules.static_plan import Action, StaticPlan

ORDERS = st.integers(0, 2)


@st.composite
def masks(draw, gates=2, steps=12) -> torch.Tensor:
    rows = st.lists(st.booleans(), min_size=gates, max_size=gates)
    return torch.tensor([[False] * gates, *draw(st.lists(rows, min_size=1, max_size=steps))])


def plan_of(mask: torch.Tensor, order: int) -> StaticPlan:
    return StaticPlan.of_mask(mask, sites=("attn",), forecast_order=order)


def read_by_following(plan: StaticPlan, gate: int) -> list[int]:
    """Return the highest difference read of each computation, found by marking reads backwards."""
    actions = [row[gate] for row in plan.table]
    needed: list[set[int]] = [set() for _ in actions]
    for step in reversed(range(1, len(actions))):
        last = max(i for i in range(step) if actions[i] is Action.COMPUTE)
        if actions[step] is Action.COMPUTE:
            # The difference of an order is made from two differences of the order below: of this
            # computation and of the previous one.
            needed[last] |= {below for order in needed[step] for below in range(order)}
        else:
            needed[last] |= set(range(actions[step].order + 1))
    return [max(found, default=-1) for found in needed]


@given(masks(), ORDERS)
def test_what_later_steps_read(mask, order):
    plan = plan_of(mask, order)
    for gate in range(2):
        assert orders_read(plan)[:, gate].tolist() == read_by_following(plan, gate)


def test_nothing_is_read_after_the_last_reuse():
    mask = torch.tensor([0, 1, 0, 0, 0, 1, 0, 0], dtype=torch.bool)[:, None]
    assert orders_read(plan_of(mask, 0))[:, 0].tolist() == [0, -1, -1, -1, 0, -1, -1, -1]
    assert orders_read(plan_of(mask, 2))[:, 0].tolist() == [0, -1, 0, 1, 2, -1, -1, -1]


def random_plan(rig, sites, order=2, share=0.5) -> StaticPlan:
    shape = (rig.steps, len(sites) * rig.layers)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < share
    mask[0] = False
    return StaticPlan.of_mask(mask, sites=sites, forecast_order=order)


@pytest.mark.parametrize("order", [1, 2])
def test_factors_are_a_controllers(rig, order):
    rig.steps = 12
    plan = random_plan(rig, ("attn", "ff"), order)
    ran = rig.run(rig.config(sites=plan.sites, forecast_order=order), plan.gate())
    factors = step_factors(plan)
    assert plan.forecast_order == order
    for step, record in enumerate(ran.records):
        inputs, reuses = record.inputs, plan.mask[step]
        assert torch.equal(plan.orders[step], torch.where(reuses, inputs.order[:, 0], 0))
        weights = forecast_weights(inputs.gap, inputs.span, inputs.order)[..., 0]
        rates = update_rates(inputs.gap, inputs.span)[..., 0]
        assert torch.equal(factors[step, :, 0], torch.where(reuses, weights, 0.0).T.float())
        assert torch.equal(factors[step, :, 1], rates.T.float())


def test_no_factor_where_nothing_was_computed_before():
    factors = step_factors(plan_of(torch.tensor([[0], [0], [1]], dtype=torch.bool), 1))
    assert factors[0].tolist() == [[[0, 0], [0, 0]]]
    assert factors[1].tolist() == [[[0, 0], [1, 0]]]
    assert factors[2].tolist() == [[[1, 0], [1, 0.5]]]
