"""HunyuanVideo: two stacks, text tokens refined and masked, distilled guidance."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, mask_of, noise_of, randomise


def components() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoTransformer3DModel

    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=10,
        pooled_projection_dim=6,
        rope_axes_dim=(2, 4, 2),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return {"transformer": randomise(transformer), "scheduler": scheduler}


def arguments(samples: int, height: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise_of(samples, 6, 10, first=1),
        "prompt_attention_mask": mask_of(samples, 6),
        "pooled_prompt_embeds": noise_of(samples, 6, first=3),
        "latents": noise_of(samples, 4, 2, height // 8, 4),
        "height": height,
        "width": 32,
        "num_frames": 5,
        "guidance_scale": 3.0,
        "output_type": "latent",
    }


CASES = (
    Case(
        name="hunyuan_video",
        pipeline="HunyuanVideoPipeline",
        components=components,
        absent=("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "vae"),
        arguments=arguments,
        sites={
            "attn": ("transformer_blocks.*.attn", "single_transformer_blocks.*.attn"),
            "ff": ("transformer_blocks.*.ff",),
            "ff_context": ("transformer_blocks.*.ff_context",),
        },
        blocks=("transformer_blocks.*", "single_transformer_blocks.*"),
        streams=("hidden_states", "encoder_hidden_states"),
        start={"sigmas": [0.8, 0.7, 0.5, 0.4, 0.2, 0.1]},
        low=32,
        tall=48,
    ),
)
