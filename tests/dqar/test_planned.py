"""A planned model computes, uncompiled and to the bit, what a controller does by the same plan."""

from __future__ import annotations

import pytest
import torch

from dqar.integration import PlannedDiT
from dqar.plan import StaticPlan

SITES = [("attn",), ("ff",), ("attn", "ff"), ("block",)]
all_sites = pytest.mark.parametrize("sites", SITES, ids=",".join)


def random_plan(rig, sites, seed=3) -> StaticPlan:
    mask = torch.rand(rig.steps, len(sites) * rig.layers, generator=torch.manual_seed(seed)) < 0.5
    mask[0] = False
    return StaticPlan.of_mask(mask, sites=sites)


def by_controller(rig, plan, **options):
    """Latents of a controller that follows the plan, with an exact cache."""
    config = rig.config(sites=plan.sites)
    wrapper = rig.wrap(config, plan.gate())
    latents = rig.sample(wrapper, **options)
    wrapper.unpatch()
    assert wrapper.controller.summary().reuse_ratio == pytest.approx(plan.reuse_ratio)
    return latents


def never(rig, sites) -> StaticPlan:
    mask = torch.zeros(rig.steps, len(sites) * rig.layers, dtype=torch.bool)
    return StaticPlan.of_mask(mask, sites=sites)


@all_sites
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_plan_is_followed_to_the_bit(rig, sites, guidance):
    stock, plan = rig.sample(guidance=guidance), random_plan(rig, sites)
    expected = by_controller(rig, plan, guidance=guidance)
    planned = PlannedDiT(rig.model, plan)
    assert torch.equal(rig.sample(planned, guidance=guidance), expected)
    assert torch.equal(rig.sample(planned, guidance=guidance), expected)
    assert not torch.equal(expected, stock)
    assert torch.equal(rig.sample(guidance=guidance), stock)


@all_sites
def test_plan_that_never_reuses_is_stock(rig, sites):
    stock = rig.sample()
    assert torch.equal(rig.sample(PlannedDiT(rig.model, never(rig, sites))), stock)
