"""Allegro: 3D rotary embeddings, text by cross-attention, stacked guidance."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, mask_of, noise_of, randomise


def components() -> dict[str, Any]:
    from diffusers import AllegroTransformer3DModel, EulerAncestralDiscreteScheduler

    transformer = AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        cross_attention_dim=24,
        caption_channels=10,
        sample_height=8,
        sample_width=8,
        sample_frames=2,
    )
    scheduler = EulerAncestralDiscreteScheduler()
    return {"transformer": randomise(transformer), "scheduler": scheduler}


def arguments(samples: int, height: int) -> dict[str, Any]:
    import torch

    return {
        "prompt_embeds": noise_of(samples, 6, 10, first=1),
        "prompt_attention_mask": mask_of(samples, 6),
        "negative_prompt": None,
        "negative_prompt_embeds": noise_of(samples, 6, 10, first=2),
        "negative_prompt_attention_mask": mask_of(samples, 6, 1),
        "latents": noise_of(samples, 4, 2, height // 8, 8),
        "generator": [torch.Generator().manual_seed(5 + sample) for sample in range(samples)],
        "height": height,
        "width": 64,
        "num_frames": 8,
        "guidance_scale": 3.0,
        "clean_caption": False,
        "output_type": "latent",
    }


CASES = (
    Case(
        name="allegro",
        pipeline="AllegroPipeline",
        components=components,
        absent=("text_encoder", "tokenizer", "vae"),
        arguments=arguments,
        sites={
            "attn": ("transformer_blocks.*.attn1",),
            "cross": ("transformer_blocks.*.attn2",),
            "ff": ("transformer_blocks.*.ff",),
        },
        blocks=("transformer_blocks.*",),
    ),
)
