"""Latte: spatial and temporal blocks in turns, with frames and then patches as rows."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, noise_of, randomise


def components() -> dict[str, Any]:
    from diffusers import DDIMScheduler, LatteTransformer3DModel

    transformer = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16,
        caption_channels=10,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=3,
    )
    scheduler = DDIMScheduler(clip_sample=False)
    return {"transformer": randomise(transformer), "scheduler": scheduler}


def arguments(samples: int, height: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise_of(samples, 6, 10, first=1),
        "negative_prompt": None,
        "negative_prompt_embeds": noise_of(samples, 6, 10, first=2),
        "latents": noise_of(samples, 4, 3, height // 8, 8),
        "height": height,
        "width": 64,
        "video_length": 3,
        "guidance_scale": 3.0,
        "clean_caption": False,
        "mask_feature": False,
        "output_type": "latent",
    }


CASES = (
    Case(
        name="latte",
        pipeline="LattePipeline",
        components=components,
        absent=("text_encoder", "tokenizer", "vae"),
        arguments=arguments,
        sites={
            "attn": ("transformer_blocks.*.attn1", "temporal_transformer_blocks.*.attn1"),
            "cross": ("transformer_blocks.*.attn2",),
            "ff": ("transformer_blocks.*.ff", "temporal_transformer_blocks.*.ff"),
        },
        blocks=("transformer_blocks.*", "temporal_transformer_blocks.*"),
        has_stack=False,
    ),
)
