"""Stable Diffusion 3: joint attention; 3.5 with a second attention and a call that leaves out
blocks (skip-layer guidance)."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, noise_of, randomise


def components(dual: tuple[int, ...]) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    transformer = SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=10,
        caption_projection_dim=16,
        pooled_projection_dim=6,
        pos_embed_max_size=16,
        dual_attention_layers=dual,
        qk_norm="rms_norm" if dual else None,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return {"transformer": randomise(transformer), "scheduler": scheduler}


def arguments(samples: int, height: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise_of(samples, 5, 10, first=1),
        "negative_prompt_embeds": noise_of(samples, 5, 10, first=2),
        "pooled_prompt_embeds": noise_of(samples, 6, first=3),
        "negative_pooled_prompt_embeds": noise_of(samples, 6, first=4),
        "latents": noise_of(samples, 4, height // 8, 8),
        "height": height,
        "width": 64,
        "guidance_scale": 3.0,
        "output_type": "latent",
    }


def skipping(samples: int, height: int) -> dict[str, Any]:
    return arguments(samples, height) | {
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": 0.1,
        "skip_layer_guidance_stop": 0.7,
    }


def case(**changes: Any) -> Case:
    return Case(
        pipeline="StableDiffusion3Pipeline",
        absent=(
            *(
                f"{kind}{which}"
                for kind in ("text_encoder", "tokenizer")
                for which in ("", "_2", "_3")
            ),
            "vae",
        ),
        blocks=("transformer_blocks.*",),
        streams=("encoder_hidden_states", "hidden_states"),
        start={"sigmas": [0.8, 0.7, 0.5, 0.4, 0.2, 0.1]},
        **changes,
    )


CASES = (
    case(
        name="sd3",
        components=lambda: components(()),
        arguments=arguments,
        sites={
            "attn": ("transformer_blocks.*.attn",),
            "ff": ("transformer_blocks.*.ff",),
            "ff_context": ("transformer_blocks.*.ff_context",),
        },
    ),
    case(
        name="sd35_slg",
        components=lambda: components((0, 1)),
        arguments=skipping,
        sites={
            "attn": ("transformer_blocks.*.attn",),
            "ff": ("transformer_blocks.*.ff",),
            "ff_context": ("transformer_blocks.*.ff_context",),
        },
    ),
)
