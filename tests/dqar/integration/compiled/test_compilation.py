"""A planned model compiles without graph breaks, into the number of graphs that its plan implies.

The backend ``eager`` runs the graphs of dynamo with the operators of the uncompiled model, so that
results are compared to the bit; ``fullgraph`` makes a graph break an error.
"""

from __future__ import annotations

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from dqar.gates.rules import Interval
from dqar.integration import Compilation, PlannedDiT
from dqar.integration.compiled.compilation import Regions
from dqar.schedules.export import export_plan
from dqar.schedules.static_plan import StaticPlan

# Dynamo imports PyTorch modules that warn about deprecated ones.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.usefixtures("dynamo"),
]

SITES = [("attn",), ("attn", "ff"), ("block",)]
all_sites = pytest.mark.parametrize("sites", SITES, ids=",".join)


def interval(rig, sites, period=2) -> StaticPlan:
    return export_plan(Interval(period), steps=rig.steps, sites=sites, num_layers=rig.layers)


def random_plan(rig, sites) -> StaticPlan:
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(rig.steps, len(sites) * rig.layers, generator=generator) < 0.5
    mask[0] = False
    return StaticPlan.of_mask(mask, sites=sites)


def uncompiled(rig, plan) -> torch.Tensor:
    planned = PlannedDiT(rig.model, plan)
    latents = rig.sample(planned)
    planned.unpatch()
    return latents


@all_sites
def test_interval_takes_two_graphs(rig, sites, graphs):
    plan = interval(rig, sites)
    expected = uncompiled(rig, plan)
    planned = PlannedDiT(rig.model, plan, compilation=Compilation(backend=graphs))
    for _ in range(2):
        assert torch.equal(rig.sample(planned), expected)
    assert graphs.count == plan.num_distinct_steps == 2


@pytest.mark.parametrize(
    "sites", [pytest.param(("attn", "ff"), marks=pytest.mark.slow), ("block",)]
)
def test_whole_steps_take_a_graph_for_each_distinct_step(rig, sites, graphs):
    rig.steps = 12  # more distinct steps than dynamo compiles of one function
    plan = random_plan(rig, sites)
    expected = uncompiled(rig, plan)
    planned = PlannedDiT(rig.model, plan, compilation=Compilation(backend=graphs))
    for _ in range(2):
        assert torch.equal(rig.sample(planned), expected)
    assert graphs.count == plan.num_distinct_steps
    assert len(sites) == 1 or graphs.count > torch._dynamo.config.recompile_limit


@pytest.mark.parametrize(
    ("sites", "most"),
    [(("attn",), 3), pytest.param(("attn", "ff"), 9, marks=pytest.mark.slow), (("block",), 3)],
)
def test_single_blocks_take_a_few_graphs_whatever_the_plan(rig, sites, most, graphs):
    rig.steps = 12
    plan = random_plan(rig, sites)
    expected = uncompiled(rig, plan)
    compilation = Compilation(region="block", backend=graphs)
    planned = PlannedDiT(rig.model, plan, compilation=compilation)
    for _ in range(2):
        assert torch.equal(rig.sample(planned), expected)
    assert planned.regions is not None
    assert len(planned.regions) <= most
    # The first block's input has another memory layout than that of the other blocks.
    assert graphs.count <= 2 * len(planned.regions)


def test_another_batch_is_compiled_again_and_no_third(rig, graphs):
    plan = interval(rig, ("attn",))
    planned = PlannedDiT(rig.model, plan, compilation=Compilation(backend=graphs))
    counts = []
    for chosen in (slice(3), slice(2), slice(1), slice(3)):
        rig.sample(planned, chosen=chosen)
        counts.append(graphs.count)
    # Dynamo compiles the second graph of a function for dynamic sizes.
    assert counts == [2, 4, 4, 4]


@pytest.mark.parametrize("region", ["step", "block"])
def test_outer_compilers_leave_the_plan_alone(rig, region):
    plan = interval(rig, ("attn", "ff"))
    expected = uncompiled(rig, plan)
    compilation = Compilation(region=region, backend="eager")
    planned = PlannedDiT(rig.model, plan, compilation=compilation)
    rig.model = torch.compile(rig.model, backend="eager")
    with planned.run(rig.scheduler):
        assert torch.equal(rig.sample(), expected)


def kept_apart(output):
    """Return the results of two calls that write to the same memory."""
    memory = torch.zeros(2)
    regions = Regions(Compilation(mode="reduce-overhead"))
    call = regions.kept_apart(lambda value: output(memory.fill_(value)))
    return call(1.0), call(2.0)


def test_outputs_outlive_the_next_replay():
    for first, second in (
        kept_apart(lambda memory: (memory,)),
        kept_apart(lambda memory: Transformer2DModelOutput(sample=memory)),
    ):
        assert first[0].tolist() == [1.0, 1.0]
        assert second[0].tolist() == [2.0, 2.0]
        assert type(first) is type(second)


@pytest.mark.slow
@pytest.mark.parametrize("region", ["step", "block"])
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_inductor(rig, region, mode, distance):
    plan = interval(rig, ("attn", "ff"))
    expected = uncompiled(rig, plan)
    planned = PlannedDiT(rig.model, plan, compilation=Compilation(region=region, mode=mode))
    for _ in range(2):
        assert distance(rig.sample(planned), expected) < 1e-5
