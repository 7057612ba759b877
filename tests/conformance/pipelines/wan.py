"""Wan: two calls a step; Wan 2.2 with a transformer for each part of the run."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, noise_of, randomise


def transformer_of(seed: int) -> Any:
    from diffusers import WanTransformer3DModel

    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=10,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_max_seq_len=32,
    )
    return randomise(transformer, seed)


def components() -> dict[str, Any]:
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return {"transformer": transformer_of(0), "scheduler": scheduler}


def pair_of_components() -> dict[str, Any]:
    return components() | {"transformer_2": transformer_of(1)}


def arguments(samples: int, height: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise_of(samples, 5, 10, first=1),
        "negative_prompt_embeds": noise_of(samples, 5, 10, first=2),
        "latents": noise_of(samples, 4, 2, height // 8, 4),
        "height": height,
        "width": 32,
        "num_frames": 5,
        "guidance_scale": 3.0,
        "output_type": "latent",
    }


def case(**changes: Any) -> Case:
    return Case(
        pipeline="WanPipeline",
        arguments=arguments,
        sites={
            "attn": ("blocks.*.attn1",),
            "cross": ("blocks.*.attn2",),
            "ff": ("blocks.*.ffn",),
        },
        blocks=("blocks.*",),
        low=32,
        tall=48,
        **changes,
    )


NONE = ("text_encoder", "tokenizer", "vae")
CASES = (
    case(name="wan21", components=components, absent=(*NONE, "transformer_2")),
    case(
        name="wan22",
        components=pair_of_components,
        absent=NONE,
        options={"boundary_ratio": 0.7},
    ),
)
