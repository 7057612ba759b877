"""``torch.compile`` before or after patching computes what the uncompiled model does.

The backend ``eager`` runs what dynamo captured by the operators of the uncompiled model, so that
equal means to the bit.
"""

from __future__ import annotations

import pytest
import torch

from dqar import patch_dit_pipeline, unpatch_dit_pipeline
from dqar.controller import DQARController
from dqar.gates import Closed, Interval

# Dynamo imports modules of PyTorch that warn of others.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.usefixtures("dynamo"),
]

KV, BLOCK = {"cached": "kv"}, {"sites": ("block",)}

CASES = [
    ("patched first", {}),
    ("compiled first", {}),
    ("called first", {}),
    ("patched first", KV),
    ("patched first", BLOCK),
    ("called first", BLOCK),
]


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.fixture
def wrapper_of(rig):
    """A wrapper of the rig's model; ``rig.model`` is compiled, and called in stock afterwards."""

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
    closed = DQARController(config, gate=Closed())
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


def test_sites_are_all_that_is_not_compiled(rig):
    sizes = []

    def counting(graph, inputs):
        del inputs
        sizes.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph.forward

    wrapper = rig.wrap(rig.config(), Interval(2))
    wrapper.transformer = torch.compile(rig.model, backend=counting)
    rig.sample(wrapper)
    in_run = sum(sizes)
    rig.model = wrapper.transformer
    rig.sample()
    assert 0 < in_run < sum(sizes)


def test_module_compiled_in_place(rig):
    uncompiled = rig.run(rig.config(), Interval(2))
    wrapper = rig.wrap(rig.config(), Interval(2))
    rig.model.compile(backend="eager")
    assert torch.equal(rig.sample(wrapper), uncompiled.latents)


@pytest.mark.parametrize("is_first", [False, True])
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
    assert torch.equal(images_of(pipe, controller=DQARController(gate=Closed())), stock)
    unpatch_dit_pipeline(pipe)
    assert torch.equal(images_of(pipe), stock)
