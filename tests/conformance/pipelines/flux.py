"""Flux: two stacks; distilled guidance in one call, or true guidance in two calls."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, noise_of, randomise


def components() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=10,
        pooled_projection_dim=6,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    return {"transformer": randomise(transformer), "scheduler": scheduler}


def arguments(samples: int, height: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise_of(samples, 5, 10, first=1),
        "pooled_prompt_embeds": noise_of(samples, 6, first=3),
        "latents": noise_of(samples, height // 16 * 4, 16),
        "height": height,
        "width": 64,
        "guidance_scale": 3.0,
        "output_type": "latent",
    }


def guided(samples: int, height: int) -> dict[str, Any]:
    return arguments(samples, height) | {
        "negative_prompt_embeds": noise_of(samples, 5, 10, first=2),
        "negative_pooled_prompt_embeds": noise_of(samples, 6, first=4),
        "true_cfg_scale": 2.0,
    }


def case(**changes: Any) -> Case:
    return Case(
        pipeline="FluxPipeline",
        components=components,
        absent=("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "vae"),
        sites={
            "attn": ("transformer_blocks.*.attn", "single_transformer_blocks.*.attn"),
            "ff": ("transformer_blocks.*.ff",),
            "ff_context": ("transformer_blocks.*.ff_context",),
        },
        blocks=("transformer_blocks.*", "single_transformer_blocks.*"),
        streams=("encoder_hidden_states", "hidden_states"),
        start={"sigmas": [0.8, 0.7, 0.5, 0.4, 0.2, 0.1]},
        **changes,
    )


CASES = (
    case(name="flux", arguments=arguments),
    case(name="flux_true_cfg", arguments=guided),
)
