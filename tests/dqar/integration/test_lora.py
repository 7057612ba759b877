"""Reuse works with LoRA adapters (Hu et al. 2022): loaded by peft before or after the model is
patched, fused into the weights, or with the model wrapped by peft."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from dqar.control.controller import DQARController
from dqar.gates.rules import Interval, MaskGate, NeverReuse
from dqar.integration import patch_dit_pipeline, unpatch_dit_pipeline

ROUNDING = 1e-5
"""Relative L2 distance within which two orders of the same float32 sums stay over a run."""


def adapter() -> LoraConfig:
    """Random adapter weights, since an adapter as peft initialises it does not change the model."""
    return LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)


def load(model: Any) -> None:
    """Inject the adapter, with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        inject_adapter_in_model(adapter(), model)


def layers_of(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def fuse(model: Any) -> None:
    """Fuse the adapter into the weights."""
    for layer in layers_of(model):
        layer.merge()


def unfuse(model: Any) -> None:
    """Subtract the adapter from the weights, and run it separately."""
    for layer in layers_of(model):
        layer.unmerge()


WAYS = {
    "loaded": ([load], []),
    "loaded while patched": ([], [load]),
    "fused": ([load, fuse], []),
    "fused while patched": ([load], [fuse]),
    "unfused while patched": ([load, fuse], [unfuse]),
}
"""Operations on the model before and after it is patched."""

by_cached = pytest.mark.parametrize("cached", ["output", "kv"])
by_way = pytest.mark.parametrize(("first", "then"), WAYS.values(), ids=WAYS)


def test_adapter_changes_the_model(rig, distance):
    plain = rig.sample()
    load(rig.model)
    assert len(layers_of(rig.model)) == 3 * rig.layers
    assert distance(rig.sample(), plain) > 1e-2


@by_cached
@by_way
def test_closed_gates_are_bit_identical(rig, cached, first, then, patches):
    for change in first:
        change(rig.model)
    wrapper = rig.wrap(rig.config(cached=cached), NeverReuse())
    for change in then:
        change(rig.model)
    found = rig.sample(wrapper)
    wrapper.unpatch()
    assert patches(rig.model) == []
    assert torch.equal(rig.sample(), found)


@by_cached
@by_way
def test_adapter_behaves_alike(rig, rig_of, cached, first, then, distance):
    config = rig.config(cached=cached)
    script = MaskGate(rig.mask(config))
    other = rig_of(copy.deepcopy(rig.model), rig.scheduler)
    load(other.model)
    loaded = other.run(config, script)
    for change in first:
        change(rig.model)
    wrapper = rig.wrap(config, script)
    for change in then:
        change(rig.model)
    assert distance(rig.sample(wrapper), loaded.latents) < ROUNDING
    assert wrapper.controller.summary() == loaded.summary


@by_cached
def test_model_wrapped_by_peft_is_patched(rig, cached, patches):
    config = rig.config(cached=cached)
    script = MaskGate(rig.mask(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        wrapped: Any = get_peft_model(rig.model, adapter())
    adapted = rig.run(config, script)
    rig.model = wrapped.eval()
    stock = rig.sample()
    through_peft = rig.run(config, script)
    assert torch.equal(through_peft.latents, adapted.latents)
    assert through_peft.summary == adapted.summary
    assert torch.equal(rig.run(config, NeverReuse()).latents, stock)
    assert patches(wrapped) == []


def test_pipeline_with_an_adapter_takes_a_controller(pipe, images_of):
    load(pipe.transformer)
    stock = images_of(pipe)
    patch_dit_pipeline(pipe)
    assert torch.equal(images_of(pipe, controller=DQARController(gate=NeverReuse())), stock)
    eager = DQARController(gate=Interval(2))
    assert not torch.equal(images_of(pipe, controller=eager), stock)
    assert eager.summary().reuse_ratio == 0.5
    unpatch_dit_pipeline(pipe)
    assert torch.equal(images_of(pipe), stock)
