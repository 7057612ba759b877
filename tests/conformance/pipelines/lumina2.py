"""Lumina 2: two calls a step without a cache context, of which the second may end before the
run."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, mask_of, noise_of, randomise


def components() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Transformer2DModel

    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=32,
        num_layers=3,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(32, 32, 32),
        cap_feat_dim=10,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return {"transformer": randomise(transformer), "scheduler": scheduler}


def arguments(samples: int, height: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise_of(samples, 6, 10, first=1),
        "prompt_attention_mask": mask_of(samples, 6).bool(),
        "negative_prompt_embeds": noise_of(samples, 6, 10, first=2),
        "negative_prompt_attention_mask": mask_of(samples, 6, 2).bool(),
        "latents": noise_of(samples, 4, height // 8, 8),
        "height": height,
        "width": 64,
        "guidance_scale": 3.0,
        "output_type": "latent",
    }


def truncated(samples: int, height: int) -> dict[str, Any]:
    return arguments(samples, height) | {"cfg_trunc_ratio": 0.5}


def case(**changes: Any) -> Case:
    return Case(
        pipeline="Lumina2Pipeline",
        components=components,
        absent=("text_encoder", "tokenizer", "vae"),
        sites={"attn": ("layers.*.attn",), "ff": ("layers.*.feed_forward",)},
        blocks=("layers.*",),
        start={"sigmas": [0.8, 0.7, 0.5, 0.4, 0.2, 0.1]},
        **changes,
    )


CASES = (
    case(name="lumina2", arguments=arguments),
    case(name="lumina2_truncated", arguments=truncated),
)
