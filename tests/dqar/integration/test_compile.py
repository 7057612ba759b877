"""A model compiled by ``torch.compile``, before or after patching, equals the uncompiled model.

The backend ``eager`` runs the graphs of dynamo with the operators of the uncompiled model, so that
results are compared to the bit.
"""

from __future__ import annotations

import pytest
import torch

from dqar import patch_dit_pipeline, unpatch_dit_pipeline
from dqar.control.controller import DQARController
from dqar.gates.rules import Interval, MaskGate, NeverReuse

# Dynamo imports PyTorch modules that warn about deprecated ones.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.usefixtures("dynamo"),
]

KV, BLOCK, STACK = {"cached": "kv"}, {"sites": ("block",)}, {"sites": ("stack",)}

CASES = [
    ("patched first", {}),
    ("compiled first", {}),
    ("called first", {}),
    ("patched first", KV),
    ("patched first", BLOCK),
    ("called first", BLOCK),
    ("patched first", STACK),
]


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.fixture
def wrapper_of(rig):
    """Return a wrapper of the rig's model, and leave ``rig.model`` compiled for unpatched calls."""

    def wrap(order, config, gate=None, **options):
        if order == "patched first":
            wrapper = rig.wrap(config, gate, **options)
            wrapper.transformer = rig.model = compiled(rig.model)
            return wrapper
        rig.model = compiled(rig.model)
        if order == "called first":
            rig.sample()
        return rig.wrap(config, gate, **options)

    return wrap


@pytest.mark.parametrize(("order", "changes"), CASES, ids=str)
def test_compiled_model_is_the_uncompiled_one(rig, wrapper_of, order, changes):
    config, gate = rig.config(**changes), Interval(2)
    stock, uncompiled = rig.sample(), rig.run(config, gate)
    wrapper = wrapper_of(order, config, gate)
    assert torch.equal(rig.sample(wrapper), uncompiled.latents)
    assert not torch.equal(uncompiled.latents, stock)
    assert wrapper.controller.summary() == uncompiled.summary
    assert torch.equal(rig.sample(), stock)
    closed = DQARController(config, gate=NeverReuse())
    assert torch.equal(rig.sample(wrapper, controller=closed), stock)
    assert torch.equal(rig.sample(wrapper), uncompiled.latents)
    wrapper.unpatch()
    assert torch.equal(rig.sample(), stock)


def test_measurements_are_those_of_the_uncompiled_model(rig, wrapper_of):
    config, gate, records = rig.config(), Interval(2), []
    uncompiled = rig.run(config, gate, exposure=True)
    wrapper = wrapper_of("called first", config, gate, exposure=True, sink=records.append)
    assert torch.equal(rig.sample(wrapper), uncompiled.latents)
    found = torch.stack([record.local_rel_error for record in records])
    assert found.isfinite().any()
    assert torch.equal(found.nan_to_num(), uncompiled.local_errors.nan_to_num())


BY_SAMPLE = [
    ({"sites": ("attn",)}, {}),
    ({}, {}),
    ({"sites": ("block",)}, {}),
    ({"sites": ("stack",)}, {}),
    ({"cached": "kv"}, {}),
    ({"quantization_bits": 8}, {}),
    ({"branch_mode": "independent"}, {}),
    ({"forecast_order": 2}, {}),
    ({}, {"exposure": True}),
]


@pytest.mark.parametrize(("changes", "options"), BY_SAMPLE, ids=str)
def test_a_step_breaks_once_whatever_is_decided(rig, graphs, changes, options):
    config = rig.config(**changes)
    gate = MaskGate(rig.mask(config))
    uncompiled = rig.run(config, gate, **options)
    wrapper, records = rig.wrap(config, gate, **options), []
    wrapper.controller.sink = records.append
    wrapper.transformer = torch.compile(rig.model, backend=graphs)
    assert torch.equal(rig.sample(wrapper), uncompiled.latents)
    assert wrapper.controller.summary() == uncompiled.summary
    # One graph for the whole model: the hook that opens the step runs before all of it.
    assert graphs.count == 1
    assert sum("dqar" in target for target in graphs.targets) == len(config.sites) * rig.layers
    assert len(records) == rig.steps


def test_outside_of_runs_the_model_is_compiled_as_stock(rig, graphs):
    stock = rig.sample()
    wrapper = rig.wrap(rig.config(), Interval(2))
    rig.model = torch.compile(rig.model, backend=graphs)
    assert torch.equal(rig.sample(), stock)
    assert graphs.count == 1
    assert not any("dqar" in target for target in graphs.targets)
    wrapper.unpatch()


@pytest.mark.slow
def test_inductor(rig):
    config = rig.config()
    gate = MaskGate(rig.mask(config))
    uncompiled = rig.run(config, gate)
    wrapper = rig.wrap(config, gate)
    wrapper.transformer = torch.compile(rig.model)
    for _ in range(2):
        torch.testing.assert_close(rig.sample(wrapper), uncompiled.latents, atol=1e-4, rtol=1e-4)
    assert wrapper.controller.summary() == uncompiled.summary


@pytest.mark.parametrize("mode", ["gradients", "autocast"])
def test_what_no_operator_can_stand_for_breaks_and_is_right(rig, mode):
    def call(model):
        grad = torch.set_grad_enabled(mode == "gradients")
        with grad, torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
            timesteps = [t.expand(len(rig.noise)) for t in rig.scheduler.timesteps]
            return [model(rig.noise, t, rig.labels).sample.detach() for t in timesteps]

    def called(model):
        wrapper = rig.wrap(rig.config(), Interval(2))
        wrapper.transformer = model(rig.model)
        rig.scheduler.set_timesteps(4)
        with wrapper.run(rig.scheduler, num_branches=1):
            found = call(wrapper)
        wrapper.unpatch()
        return found

    for one, other in zip(called(compiled), called(lambda model: model), strict=True):
        assert torch.equal(one, other)


def test_module_compiled_in_place(rig):
    uncompiled = rig.run(rig.config(), Interval(2))
    wrapper = rig.wrap(rig.config(), Interval(2))
    rig.model.compile(backend="eager")
    assert torch.equal(rig.sample(wrapper), uncompiled.latents)


@pytest.mark.parametrize("is_first", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_pipeline_with_a_compiled_transformer(pipe, images_of, is_first):
    stock = images_of(pipe)
    patch_dit_pipeline(pipe)
    reused = images_of(pipe, controller=DQARController(gate=Interval(2)))
    if is_first:
        unpatch_dit_pipeline(pipe)
    pipe.transformer = compiled(pipe.transformer)
    if is_first:
        patch_dit_pipeline(pipe)
    assert torch.equal(images_of(pipe, controller=DQARController(gate=Interval(2))), reused)
    assert torch.equal(images_of(pipe, controller=DQARController(gate=NeverReuse())), stock)
    unpatch_dit_pipeline(pipe)
    assert torch.equal(images_of(pipe), stock)
