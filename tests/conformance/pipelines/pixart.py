"""PixArt: text by cross-attention, guidance branches stacked in one call, unconditional first."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, mask_of, noise_of, randomise


def components(additional: bool) -> dict[str, Any]:
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=3,
        cross_attention_dim=24,
        caption_channels=10,
        sample_size=128 if additional else 8,
        use_additional_conditions=additional,
    )
    return {"transformer": randomise(transformer), "scheduler": DPMSolverMultistepScheduler()}


def arguments(samples: int, height: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise_of(samples, 6, 10, first=1),
        "prompt_attention_mask": mask_of(samples, 6),
        "negative_prompt": None,
        "negative_prompt_embeds": noise_of(samples, 6, 10, first=2),
        "negative_prompt_attention_mask": mask_of(samples, 6, 1),
        "latents": noise_of(samples, 4, height // 8, 8),
        "height": height,
        "width": 64,
        "guidance_scale": 3.0,
        "clean_caption": False,
        "use_resolution_binning": False,
        "output_type": "latent",
    }


def case(name: str, pipeline: str, additional: bool) -> Case:
    return Case(
        name=name,
        pipeline=pipeline,
        components=lambda: components(additional),
        absent=("tokenizer", "text_encoder", "vae"),
        arguments=arguments,
        sites={
            "attn": ("transformer_blocks.*.attn1",),
            "cross": ("transformer_blocks.*.attn2",),
            "ff": ("transformer_blocks.*.ff",),
        },
        blocks=("transformer_blocks.*",),
        start={"timesteps": [700, 500, 400, 200, 100, 20]},
    )


CASES = (
    case("pixart_alpha", "PixArtAlphaPipeline", True),
    case("pixart_sigma", "PixArtSigmaPipeline", False),
)
