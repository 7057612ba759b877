"""Planned models and declared branches serve the families of DiT; other models are patched."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest

from dqar import DQARConfig, DQARDiTWrapper
from dqar.gates.rules import Interval
from dqar.integration.compiled.planned_transformer import PlannedDiT
from dqar.schedules.export import export_plan

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1}
LATTE = {"in_channels": 4, "sample_size": 8, "patch_size": 2, "caption_channels": 8}
OTHERS: dict[str, dict[str, Any]] = {
    "LatteTransformer3DModel": {**HEADS, **LATTE, "cross_attention_dim": 32, "video_length": 2},
    "AllegroTransformer3DModel": {**HEADS, "cross_attention_dim": 32, "caption_channels": 8},
    "SanaTransformer2DModel": {
        **HEADS,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 16,
        "cross_attention_dim": 32,
        "caption_channels": 8,
    },
    "CogVideoXTransformer3DModel": {**HEADS, "text_embed_dim": 8, "time_embed_dim": 8},
}
"""Transformers with ``transformer_blocks`` whose rows, attention or guidance differ."""


@pytest.fixture(params=OTHERS)
def other(request):
    """A tiny random transformer of another family."""
    build: Any = getattr(diffusers, request.param)
    return build(**OTHERS[request.param])


def test_another_family_has_no_planned_model(other):
    name = type(other).__name__
    DQARDiTWrapper(other, DQARConfig(sites=("ff",))).unpatch()
    plan = export_plan(Interval(2), steps=2, sites=("ff",), num_layers=1)
    with pytest.raises(ValueError, match=rf"must be made of one of .* Got {name}"):
        PlannedDiT(other, plan)


def pixart() -> Any:
    build: Any = diffusers.PixArtTransformer2DModel
    return build(
        **HEADS,
        sample_size=8,
        cross_attention_dim=32,
        caption_channels=8,
        use_additional_conditions=False,
    )


def test_a_third_branch_is_refused(rig):
    from diffusers.models.attention_processor import PAGCFGIdentitySelfAttnProcessor2_0

    model = pixart()
    DQARDiTWrapper(model, DQARConfig()).unpatch()
    model.transformer_blocks[0].attn1.set_processor(PAGCFGIdentitySelfAttnProcessor2_0())
    with pytest.raises(ValueError, match="Got a third one, perturbed-attention guidance"):
        DQARDiTWrapper(model, DQARConfig())
    wrapper = rig.wrap(rig.config())
    with (
        pytest.raises(ValueError, match=r"num_branches must be 1 or 2\. Got 3"),
        wrapper.run(rig.scheduler, num_branches=3),
    ):
        pass


def test_a_cross_branch_threshold_of_a_model_with_the_other_order_is_refused(rig):
    config = DQARConfig(sites=("ff",), cross_branch_threshold=0.1)
    wrapper = DQARDiTWrapper(pixart(), config)
    with (
        pytest.raises(ValueError, match=r"whose pipelines stack \[uncond; cond\]"),
        wrapper.run(rig.scheduler, num_branches=2),
    ):
        pass


@pytest.mark.parametrize("norm_type", ["ada_norm_zero", "layer_norm"])
def test_an_older_class_is_a_dit_by_its_norms(norm_type):
    build: Any = diffusers.Transformer2DModel
    is_dit = norm_type == "ada_norm_zero"
    of_dit = {"num_embeds_ada_norm": 10, "sample_size": 8, "patch_size": 2, "in_channels": 4}
    given = of_dit if is_dit else {"in_channels": 32}
    model = build(**HEADS | {"num_layers": 2}, **given, norm_type=norm_type)
    if is_dit:
        DQARDiTWrapper(model, DQARConfig()).unpatch()
        return
    DQARDiTWrapper(model, DQARConfig(sites=("block",))).unpatch()
    with pytest.raises(ValueError, match="Got 'attn' for a model with block, stack"):
        DQARDiTWrapper(model, DQARConfig())
