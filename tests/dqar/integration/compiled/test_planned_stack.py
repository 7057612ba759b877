"""Plans of the site ``stack``: equal to plans of tied blocks, which skip every block."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from dqar.gate_table import GateTable
from dqar.gates.rules import Interval
from dqar.integration import Compilation, PlannedDiT
from dqar.schedules.export import export_plan
from dqar.schedules.static_plan import StaticPlan

# Dynamo imports PyTorch modules that warn about deprecated ones.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

STACK, BLOCK = ("stack",), ("block",)
all_orders = pytest.mark.parametrize("order", [0, 1, 2])
COMPUTED = (0, 1, 2, 4, 7, 8)
"""Computed steps of :func:`tied`, out of 12."""


@pytest.fixture
def rig(rig):
    rig.steps = 12
    return rig


def tied(rig, sites, order, feedback=0.0) -> StaticPlan:
    """A plan in which all gates of a step compute, or all reuse."""
    table = GateTable.regular(sites, rig.layers)
    mask = torch.ones(rig.steps, table.num_gates, dtype=torch.bool)
    mask[list(COMPUTED)] = False
    return StaticPlan.of_mask(
        mask, sites=sites, gates=table, forecast_order=order, feedback=feedback
    )


def by_controller(rig, plan, **options) -> torch.Tensor:
    """Return latents of a controller that follows the plan, with an unquantised cache."""
    changes = {"forecast_order": plan.forecast_order, "feedback": plan.feedback}
    wrapper = rig.wrap(rig.config(sites=plan.sites, **changes), plan.gate())
    latents = rig.sample(wrapper, **options)
    wrapper.unpatch()
    summary = wrapper.controller.summary()
    assert summary.gates == plan.gate_table.num_gates * rig.steps * rig.samples
    assert summary.reuse_ratio == pytest.approx(plan.reuse_ratio)
    return latents


def by_plan(rig, plan, **options) -> torch.Tensor:
    planned = PlannedDiT(rig.model, plan)
    latents = rig.sample(planned, **options)
    planned.unpatch()
    return latents


# Results.


@all_orders
@pytest.mark.parametrize("by", [by_controller, by_plan])
def test_stack_is_the_plan_of_tied_blocks(rig, by, order, distance):
    blocks, stack = by(rig, tied(rig, BLOCK, order)), by(rig, tied(rig, STACK, order))
    assert distance(stack, blocks) < 1e-6
    assert distance(stack, rig.sample()) > 1e-4


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@all_orders
def test_plan_is_followed_to_the_bit(rig, order, guidance):
    plan = tied(rig, STACK, order)
    expected = by_controller(rig, plan, guidance=guidance)
    planned = PlannedDiT(rig.model, plan)
    for _ in range(2):
        assert torch.equal(rig.sample(planned, guidance=guidance), expected)


def test_error_feedback_is_that_of_tied_blocks(rig, distance):
    plans = [tied(rig, sites, 1, feedback=0.5) for sites in (BLOCK, STACK)]
    blocks, stack = (by_plan(rig, plan) for plan in plans)
    assert distance(stack, blocks) < 1e-6
    assert torch.equal(stack, by_controller(rig, plans[1]))
    assert distance(stack, by_plan(rig, tied(rig, STACK, 1))) > 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(rig, dtype, distance):
    stock = rig.sample()
    rig.model.to(dtype)
    rig.noise = rig.noise.to(dtype)
    latents = by_plan(rig, tied(rig, STACK, 2))
    assert latents.dtype == dtype
    assert distance(latents.float(), by_plan(rig, tied(rig, BLOCK, 2)).float()) < 0.1
    assert distance(latents.float(), stock) < 1


def test_run_that_starts_late_computes_its_first_step(rig):
    plan, calls = tied(rig, STACK, 1), []
    planned = PlannedDiT(rig.model, plan)
    for block in rig.model.transformer_blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    rig.scheduler.set_timesteps(rig.steps)
    with torch.no_grad(), planned.run(rig.scheduler):
        for timestep in rig.scheduler.timesteps[5:9]:
            rows = rig.noise, timestep.expand(rig.samples)
            planned(rows[0], timestep=rows[1], class_labels=rig.labels)
    assert len(calls) == 3 * rig.layers  # steps 5, 7 and 8


# What runs and what is kept.


@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize(
    ("sites", "region"),
    [
        (("attn", "ff"), None),
        (BLOCK, None),
        (STACK, None),
        (STACK, "step"),
        (("attn",), "step"),
        (STACK, "block"),
    ],
)
def test_first_run_of_a_batch_shape_costs_no_extra_forward(rig, sites, region):
    plan = tied(rig, sites, 1)
    # Tensors, since a graph of dynamo holds for one value of a Python number.
    blocks, attentions = torch.zeros((), dtype=torch.long), torch.zeros((), dtype=torch.long)
    for block in rig.model.transformer_blocks:
        for module, counter in ((block, blocks), (block.attn1.to_q, attentions)):
            module.register_forward_hook(partial(_count, counter))
    compilation = region and Compilation(region=region, backend="eager")
    planned = PlannedDiT(rig.model, plan, compilation=compilation)
    for run, chosen in enumerate((slice(3), slice(2), slice(3)), start=1):
        rig.sample(planned, chosen=chosen)
        assert int(attentions) == run * len(COMPUTED) * rig.layers
        if sites == STACK and region != "block":  # which calls forward of its blocks directly
            assert int(blocks) == run * len(COMPUTED) * rig.layers


def _count(counter, *_):
    counter.add_(1)


@all_orders
def test_one_tensor_is_kept_for_each_order(rig, order):
    planned = PlannedDiT(rig.model, tied(rig, STACK, order))
    rig.sample(planned)
    entry = len(rig.noise) * 2 * 16 * 16 * 4  # rows of both branches, tokens, width, bytes
    assert planned.kept_bytes == (1 + order) * entry


def test_hooks_of_blocks_see_single_blocks(rig):
    """A hook on the first block fires for its own output, not for that of the stack."""
    plan, seen = tied(rig, STACK, 0), []
    blocks = rig.model.transformer_blocks
    handle = blocks[0].register_forward_hook(lambda *_: seen.append(_[2]))
    stock = rig.sample()
    expected, seen = list(seen), []
    handle.remove()
    blocks[0].register_forward_hook(lambda *_: seen.append(_[2]))
    planned = PlannedDiT(rig.model, plan)
    rig.sample(planned)
    assert len(seen) == len(COMPUTED)
    assert torch.equal(seen[0], expected[0])
    planned.unpatch()
    assert torch.equal(rig.sample(), stock)


# Compiled.


@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("order", [0, 2])
def test_whole_steps_take_two_graphs(rig, order, graphs):
    plan = tied(rig, STACK, order)
    expected = by_plan(rig, plan)
    planned = PlannedDiT(rig.model, plan, compilation=Compilation(backend=graphs))
    for _ in range(2):
        assert torch.equal(rig.sample(planned), expected)
    assert graphs.count == plan.num_distinct_steps == 2


@pytest.mark.usefixtures("dynamo")
def test_single_blocks_take_one_graph(rig, graphs):
    plan = tied(rig, STACK, 1)
    expected = by_plan(rig, plan)
    compilation = Compilation(region="block", backend=graphs)
    planned = PlannedDiT(rig.model, plan, compilation=compilation)
    for _ in range(2):
        assert torch.equal(rig.sample(planned), expected)
    assert planned.regions is not None
    assert len(planned.regions) == 1
    assert graphs.count <= 2  # the first block's input has another memory layout


@pytest.mark.slow
@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("region", ["step", "block"])
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_inductor(rig, region, mode, distance):
    plan = export_plan(
        Interval(3), steps=rig.steps, sites=STACK, num_layers=rig.layers, forecast_order=2
    )
    expected = by_plan(rig, plan)
    planned = PlannedDiT(rig.model, plan, compilation=Compilation(region=region, mode=mode))
    for _ in range(2):
        assert distance(rig.sample(planned), expected) < 1e-5
