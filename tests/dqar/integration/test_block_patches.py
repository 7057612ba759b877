"""Patches of whole blocks are removed completely, and take inputs of any kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.rules import Interval, MaskGate, NeverReuse
from dqar.integration import patch_dit_pipeline, unpatch_dit_pipeline

TOKENS, WIDTH = 16, 16


def whole(**changes: Any) -> DQARConfig:
    values: dict[str, Any] = {"sites": ("block",), "quantization_bits": 32}
    return DQARConfig(**(values | changes))


@pytest.mark.parametrize("exposure", [False, True])
def test_unpatch_restores_the_model(rig, patches, exposure):
    stock = rig.sample()
    script = MaskGate(rig.mask(whole()))
    wrapper = rig.wrap(whole(), script, exposure=exposure, sink=lambda record: None)
    rig.sample(wrapper)
    named = ["", *(f"transformer_blocks.{layer}" for layer in range(rig.layers))]
    assert patches(rig.model) == named  # the model itself has the hook that opens steps
    assert wrapper.unpatch() is rig.model
    assert patches(rig.model) == []
    assert torch.equal(rig.sample(), stock)


def test_stock_pipeline_reuses_blocks(pipe, images_of):
    stock = images_of(pipe)
    patch_dit_pipeline(pipe, whole())
    assert torch.equal(
        images_of(pipe, controller=DQARController(whole(), gate=NeverReuse())), stock
    )
    eager = DQARController(whole(), gate=Interval(2))
    assert not torch.equal(images_of(pipe, controller=eager), stock)
    assert eager.summary().reuse_ratio == 0.5
    unpatch_dit_pipeline(pipe)
    assert torch.equal(images_of(pipe), stock)


@pytest.mark.parametrize("sites", [("attn", "ff"), ("block",), ("stack",)])
def test_inputs_that_the_family_does_not_declare_reach_the_right_rows(rig, sites, distance):
    """A mask of each row, which no family of DiT declares: all rows compute, and those are kept
    that were asked for."""
    config = DQARConfig(sites=sites, quantization_bits=32)
    mask = rig.mask(config)
    biases = torch.randn(2, rig.samples, 1, TOKENS, generator=torch.Generator().manual_seed(3))

    def latents(chosen):
        def with_mask(module, args, kwargs):
            del module
            return args, kwargs | {"attention_mask": biases[:, chosen].flatten(0, 1)}

        handles = [
            block.register_forward_pre_hook(with_mask, with_kwargs=True)
            for block in rig.model.transformer_blocks
        ]
        found = rig.run(config, MaskGate(mask[..., chosen]), chosen=chosen).latents
        for handle in handles:
            handle.remove()
        return found

    together = latents([0, 1, 2])
    assert distance(together, rig.run(config, MaskGate(mask)).latents) > 1e-2
    for one in range(rig.samples):
        assert distance(latents([one]), together[[one]]) < 1e-5


@pytest.mark.parametrize("sites", [("attn", "block"), ("block", "ff"), ("block", "block")])
def test_blocks_leave_no_other_site(sites):
    with pytest.raises(ValueError, match=r"block must be the only site.*Pass \('block',\)"):
        DQARConfig(sites=sites)
