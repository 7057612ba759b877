"""LTX-Video: rotary embeddings for each row of the batch, stacked guidance."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, mask_of, noise_of, randomise


def components() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel

    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=3,
        caption_channels=10,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return {"transformer": randomise(transformer), "scheduler": scheduler}


def arguments(samples: int, height: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise_of(samples, 6, 10, first=1),
        "prompt_attention_mask": mask_of(samples, 6),
        "negative_prompt_embeds": noise_of(samples, 6, 10, first=2),
        "negative_prompt_attention_mask": mask_of(samples, 6, 1),
        "latents": noise_of(samples, 2 * (height // 32) * 4, 8),
        "height": height,
        "width": 128,
        "num_frames": 9,
        "guidance_scale": 3.0,
        "output_type": "latent",
    }


CASES = (
    Case(
        name="ltx",
        pipeline="LTXPipeline",
        components=components,
        absent=("text_encoder", "tokenizer", "vae"),
        arguments=arguments,
        sites={
            "attn": ("transformer_blocks.*.attn1",),
            "cross": ("transformer_blocks.*.attn2",),
            "ff": ("transformer_blocks.*.ff",),
        },
        blocks=("transformer_blocks.*",),
        low=64,
        tall=96,
    ),
)
