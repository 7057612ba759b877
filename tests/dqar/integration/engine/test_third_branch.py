"""Perturbed-attention guidance: an attention that splits its batch sees whole batches."""

from __future__ import annotations

import pytest
import torch

from dqar.gates.rules import MaskGate
from tests.dqar.integration.engine.driver import STEPS, Sampled, sample
from tests.dqar.integration.engine.models import CASES


@pytest.mark.parametrize("sites", [("attn", "ff"), ("block",), ("stack",)])
def test_rows_of_an_attention_that_splits_its_batch_are_computed_together(sites, distance):
    from diffusers.models.attention_processor import PAGCFGIdentitySelfAttnProcessor2_0

    case, rows = CASES["pixart"], [0, 1, 2]
    model = case.build()
    # Three rows are one sample in three branches; the third row's attention is the identity.
    plain = sample(case, model, rows)
    for block in model.transformer_blocks:
        block.attn1.set_processor(PAGCFGIdentitySelfAttnProcessor2_0())
    stock = sample(case, model, rows)
    assert distance(stock[2], plain[2]) > 1e-3
    # Branches decided apart: one row of three reuses.
    mask = torch.zeros(STEPS, 1, 3, dtype=torch.bool)
    mask[1::2, :, 0] = True
    mixed = Sampled(case, model, sites, MaskGate(mask), rows)
    assert distance(mixed.latents[1:], stock[1:]) < 1e-5
    assert distance(mixed.latents[0], stock[0]) > 1e-5
