"""Mochi: joint attention whose last block returns no text, norms after the gates."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, mask_of, noise_of, randomise


def components() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, MochiTransformer3DModel

    transformer = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        pooled_projection_dim=16,
        in_channels=4,
        text_embed_dim=16,
        time_embed_dim=8,
        max_sequence_length=6,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return {"transformer": randomise(transformer), "scheduler": scheduler}


def arguments(samples: int, height: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise_of(samples, 6, 16, first=1),
        "prompt_attention_mask": mask_of(samples, 6).bool(),
        "negative_prompt_embeds": noise_of(samples, 6, 16, first=2),
        "negative_prompt_attention_mask": mask_of(samples, 6, 2).bool(),
        "latents": noise_of(samples, 4, 2, height // 8, 8),
        "height": height,
        "width": 64,
        "num_frames": 7,
        "guidance_scale": 3.0,
        "output_type": "latent",
    }


CASES = (
    Case(
        name="mochi",
        pipeline="MochiPipeline",
        components=components,
        absent=("text_encoder", "tokenizer", "vae"),
        arguments=arguments,
        sites={
            "attn": ("transformer_blocks.*.attn1",),
            "ff": ("transformer_blocks.*.ff",),
            "ff_context": ("transformer_blocks.*.ff_context",),
        },
        blocks=("transformer_blocks.*",),
        streams=("hidden_states", "encoder_hidden_states"),
    ),
)
