"""Patches of whole blocks are removed completely, and refuse inputs that cannot be reused."""

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


OTHER_INPUTS = {
    "mask": {"attention_mask": torch.zeros(2, 16)},
    "encoder states": {"encoder_hidden_states": torch.zeros(2, 3, 16)},
    "nested": {"cross_attention_kwargs": {"gligen": {"objs": torch.zeros(2, 3, 16)}}},
    "pooled": {"added_cond_kwargs": {"pooled_text_emb": torch.zeros(2, 16)}},
}


@pytest.mark.parametrize("others", OTHER_INPUTS.values(), ids=OTHER_INPUTS)
def test_other_inputs_are_refused_in_a_run(rig, others):
    wrapper = rig.wrap(whole())
    block, hidden = rig.model.transformer_blocks[0], torch.zeros(2, TOKENS, WIDTH)
    rows = {"timestep": torch.tensor([5, 5]), "class_labels": torch.tensor([1, 2])}
    expected = "must take hidden states, timesteps and labels alone"
    with wrapper.run(rig.scheduler, num_branches=1):
        with pytest.raises(ValueError, match=expected):
            block(hidden, **rows, **others)
        with pytest.raises(ValueError, match=expected):
            block(hidden, None, None, None, rows["timestep"])


@pytest.mark.parametrize("sites", [("attn", "block"), ("block", "ff"), ("block", "block")])
def test_blocks_leave_no_other_site(sites):
    with pytest.raises(ValueError, match=r"block must be the only site.*Pass \('block',\)"):
        DQARConfig(sites=sites)
