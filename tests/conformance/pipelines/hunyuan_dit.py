"""Hunyuan-DiT: blocks with long skip connections, RoPE, two text encoders."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, mask_of, noise_of, randomise


def components() -> dict[str, Any]:
    from diffusers import DDPMScheduler, HunyuanDiT2DModel

    transformer = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=4,
        cross_attention_dim=10,
        cross_attention_dim_t5=8,
        pooled_projection_dim=6,
        text_len=5,
        text_len_t5=6,
        use_style_cond_and_image_meta_size=False,
    )
    return {"transformer": randomise(transformer), "scheduler": DDPMScheduler(clip_sample=False)}


def arguments(samples: int, height: int) -> dict[str, Any]:
    import torch

    generators = [torch.Generator().manual_seed(5 + sample) for sample in range(samples)]
    embeds = {
        f"{sign}prompt_{kind}{which}": value
        for first, sign in enumerate(("", "negative_"))
        for which, length, width in (("", 5, 10), ("_2", 6, 8))
        for kind, value in (
            ("embeds", noise_of(samples, length, width, first=first + 2 * length)),
            ("attention_mask", mask_of(samples, length)),
        )
    }
    return embeds | {
        "latents": noise_of(samples, 4, height // 8, 8),
        "generator": generators,
        "height": height,
        "width": 64,
        "guidance_scale": 3.0,
        "use_resolution_binning": False,
        "output_type": "latent",
    }


CASES = (
    Case(
        name="hunyuan_dit",
        pipeline="HunyuanDiTPipeline",
        components=components,
        absent=(
            *("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "vae"),
            *("safety_checker", "feature_extractor"),
        ),
        arguments=arguments,
        sites={
            "attn": ("blocks.*.attn1",),
            "cross": ("blocks.*.attn2",),
            "ff": ("blocks.*.ff",),
        },
        blocks=("blocks.*",),
    ),
)
