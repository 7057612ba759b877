"""A planned model with forecasts equals, to the bit, a controller that follows the same plan."""

from __future__ import annotations

import pytest
import torch

from dqar.config import DQARConfig
from dqar.gates.planned import ScheduleGate
from dqar.gates.rules import Interval
from dqar.integration import Compilation, PlannedDiT
from dqar.policy.network import PolicySpec, ReusePolicy
from dqar.policy.serialization import load_policy, save_policy
from dqar.schedules.export import export_plan
from dqar.schedules.static_plan import StaticPlan

# Dynamo imports PyTorch modules that warn about deprecated ones.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

SITES = [("attn",), ("ff",), ("attn", "ff"), ("ff", "attn"), ("block",)]
all_sites = pytest.mark.parametrize("sites", SITES, ids=",".join)
both_orders = pytest.mark.parametrize("order", [1, 2])


@pytest.fixture
def rig(rig):
    rig.steps = 12
    return rig


def irregular(rig, sites, order, share=0.5) -> StaticPlan:
    """A plan from a random mask."""
    shape = (rig.steps, len(sites) * rig.layers)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < share
    mask[0] = False
    return StaticPlan.of_mask(mask, sites=sites, forecast_order=order)


def interval(rig, sites, order=0, period=3) -> StaticPlan:
    return export_plan(
        Interval(period),
        steps=rig.steps,
        sites=sites,
        num_layers=rig.layers,
        forecast_order=order,
    )


def by_controller(rig, plan, bits=32, **options) -> torch.Tensor:
    """Return latents of a controller that follows the plan, with an unquantised cache."""
    order = plan.forecast_order
    config = rig.config(sites=plan.sites, quantization_bits=bits, forecast_order=order)
    wrapper = rig.wrap(config, plan.gate())
    latents = rig.sample(wrapper, **options)
    wrapper.unpatch()
    assert wrapper.controller.summary().reuse_ratio == pytest.approx(plan.reuse_ratio)
    return latents


def by_plan(rig, plan, **options) -> torch.Tensor:
    planned = PlannedDiT(rig.model, plan)
    latents = rig.sample(planned, **options)
    planned.unpatch()
    return latents


# Results.


@all_sites
@both_orders
def test_irregular_plans_are_followed_to_the_bit(rig, sites, order):
    plan = irregular(rig, sites, order)
    expected = by_controller(rig, plan)
    planned = PlannedDiT(rig.model, plan)
    for _ in range(2):
        assert torch.equal(rig.sample(planned), expected)
    planned.unpatch()
    lower = StaticPlan.of_mask(plan.mask, sites=sites, forecast_order=order - 1)
    assert not torch.equal(by_plan(rig, lower), expected)


@all_sites
@both_orders
def test_intervals_are_followed_to_the_bit(rig, sites, order):
    plan = interval(rig, sites, order)
    assert plan.forecast_order == order
    assert torch.equal(by_plan(rig, plan, guidance=1.0), by_controller(rig, plan, guidance=1.0))


@pytest.mark.parametrize("sites", [("attn", "ff"), ("block",)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(rig, sites, dtype, distance):
    rig.model.to(dtype)
    rig.noise = rig.noise.to(dtype)
    plan = irregular(rig, sites, 2)
    latents = by_plan(rig, plan)
    assert latents.dtype == dtype
    expected = by_controller(rig, plan, bits=16)
    # Not to the bit: coefficients are numbers in the controller and tensors in the planned model.
    # These are different kernels, and without vector instructions some round the product first.
    assert distance(latents.float(), expected.float()) < torch.finfo(dtype).eps


def test_a_run_after_one_that_was_not_finite(rig):
    planned = PlannedDiT(rig.model, irregular(rig, ("attn", "ff"), 2))
    expected = rig.sample(planned)
    noise, rig.noise = rig.noise, torch.full_like(rig.noise, float("inf"))
    assert rig.sample(planned).isnan().all()
    rig.noise = noise
    assert torch.equal(rig.sample(planned), expected)


def test_inference_mode_and_no_grad_take_turns(rig):
    planned = PlannedDiT(rig.model, irregular(rig, ("attn",), 2))
    with torch.inference_mode():
        first = rig.sample(planned).clone()
    assert torch.equal(rig.sample(planned), first)


# Buffers.


def of_several_orders(rig) -> StaticPlan:
    """A plan in which each layer reuses once, after 1, 2 and 3 computations."""
    rig.steps = 6
    mask = torch.zeros(6, 3, dtype=torch.bool)
    mask[1, 0] = mask[2, 1] = mask[3, 2] = True
    return StaticPlan.of_mask(mask, sites=("attn",), forecast_order=2)


def test_differences_are_kept_where_forecasts_read_them(rig):
    plan = of_several_orders(rig)
    planned = PlannedDiT(rig.model, plan)
    rig.sample(planned)
    gates = planned._memory.gates
    assert {gate: len(kept.differences) for gate, kept in gates.items()} == {0: 0, 1: 1, 2: 2}
    entry = len(rig.noise) * 2 * 16 * 16 * 4  # rows of both branches, tokens, width, bytes
    assert planned.kept_bytes == (1 + 2 + 3) * entry


def test_what_is_kept_stays_where_it_is(rig):
    planned = PlannedDiT(rig.model, irregular(rig, ("attn", "ff"), 2))
    rig.sample(planned)
    first = [tensor.data_ptr() for tensor in planned._memory.tensors]
    rig.sample(planned)
    assert [tensor.data_ptr() for tensor in planned._memory.tensors] == first


# Compiled.


@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("sites", [("attn", "ff"), ("block",)], ids=",".join)
@both_orders
def test_forecasts_of_an_interval_take_no_more_graphs_than_values(rig, sites, order, graphs):
    plan = interval(rig, sites, order)
    expected = by_plan(rig, plan)
    assert len(set(plan.table)) == 2 + order
    planned = PlannedDiT(rig.model, plan, compilation=Compilation(backend=graphs))
    for _ in range(2):
        assert torch.equal(rig.sample(planned), expected)
    assert graphs.count == plan.num_distinct_steps == interval(rig, sites).num_distinct_steps == 2


@pytest.mark.slow
@pytest.mark.usefixtures("dynamo")
def test_irregular_forecasts_take_a_graph_for_each_mask(rig, graphs):
    plan = irregular(rig, ("attn", "ff"), 2)
    expected = by_plan(rig, plan)
    planned = PlannedDiT(rig.model, plan, compilation=Compilation(backend=graphs))
    for _ in range(2):
        assert torch.equal(rig.sample(planned), expected)
    assert graphs.count == plan.num_distinct_steps


@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize(
    ("sites", "most"),
    [(("attn",), 3), pytest.param(("attn", "ff"), 9, marks=pytest.mark.slow), (("block",), 3)],
)
def test_single_blocks_take_as_few_graphs_as_without_forecasts(rig, sites, most, graphs):
    plan = irregular(rig, sites, 2)
    expected = by_plan(rig, plan)
    compilation = Compilation(region="block", backend=graphs)
    planned = PlannedDiT(rig.model, plan, compilation=compilation)
    for _ in range(2):
        assert torch.equal(rig.sample(planned), expected)
    assert planned.regions is not None
    assert len(planned.regions) <= most
    assert graphs.count <= 2 * len(planned.regions)


@pytest.mark.usefixtures("dynamo")
def test_single_blocks_of_other_orders_take_graphs_of_their_own(rig, graphs):
    plan = of_several_orders(rig)
    expected = by_plan(rig, plan)
    compilation = Compilation(region="block", backend=graphs)
    planned = PlannedDiT(rig.model, plan, compilation=compilation)
    assert torch.equal(rig.sample(planned), expected)
    assert planned.regions is not None
    assert len(planned.regions) == 1 + 2 * 3  # compute; keep and reuse of each order
    assert torch.equal(expected, by_controller(rig, plan))


@pytest.mark.slow
@pytest.mark.usefixtures("dynamo")
def test_another_batch_is_compiled_again_and_no_third(rig, graphs):
    plan = interval(rig, ("attn",), 2)
    planned = PlannedDiT(rig.model, plan, compilation=Compilation(backend=graphs))
    counts = []
    for chosen in (slice(3), slice(2), slice(1), slice(3)):
        rig.sample(planned, chosen=chosen)
        counts.append(graphs.count)
    assert counts == [2, 4, 4, 4]


@pytest.mark.slow
@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("region", ["step", "block"])
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_inductor(rig, region, mode, distance):
    plan = interval(rig, ("attn", "ff"), 2)
    expected = by_plan(rig, plan)
    planned = PlannedDiT(rig.model, plan, compilation=Compilation(region=region, mode=mode))
    for _ in range(2):
        assert distance(rig.sample(planned), expected) < 1e-5


# A policy that plans.


def stored_policy(folder, **changes):
    values = {"steps": 12, "plans": ((0, 1, 2, 5, 8),), "plan_errors": (0.01,)}
    values |= {"sites": ("attn", "ff"), "forecast_order": 2, "features": ("log_gap",)}
    save_policy(ReusePolicy(PolicySpec(**(values | changes))), folder)
    return load_policy(folder)


@pytest.mark.usefixtures("dynamo")
def test_a_policy_becomes_a_compiled_model(rig, tmp_path, graphs):
    policy = stored_policy(tmp_path)
    rig.scheduler.set_timesteps(rig.steps)
    plan = export_plan(
        ScheduleGate(policy), sites=policy.spec.sites, num_layers=3, scheduler=rig.scheduler
    )
    planned = PlannedDiT(rig.model, plan, compilation=Compilation(backend=graphs))
    latents = rig.sample(planned)
    planned.unpatch()
    config = DQARConfig(sites=policy.spec.sites, quantization_bits=32, forecast_order=2)
    wrapper = rig.wrap(config, ScheduleGate(policy))
    assert torch.equal(rig.sample(wrapper), latents)
    assert (plan.forecast_order, graphs.count) == (2, 2)
