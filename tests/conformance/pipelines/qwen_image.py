"""Qwen-Image: two calls a step, whose prompts have different lengths."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, mask_of, noise_of, randomise


def components() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel

    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=10,
        axes_dims_rope=(4, 6, 6),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    return {"transformer": randomise(transformer), "scheduler": scheduler}


def arguments(samples: int, height: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise_of(samples, 6, 10, first=1),
        "prompt_embeds_mask": mask_of(samples, 6),
        "negative_prompt_embeds": noise_of(samples, 4, 10, first=2),
        "negative_prompt_embeds_mask": mask_of(samples, 4, 2),
        "latents": noise_of(samples, height // 16 * 4, 16),
        "height": height,
        "width": 64,
        "true_cfg_scale": 3.0,
        "output_type": "latent",
    }


CASES = (
    Case(
        name="qwen_image",
        pipeline="QwenImagePipeline",
        components=components,
        absent=("text_encoder", "tokenizer", "vae"),
        arguments=arguments,
        sites={
            "attn": ("transformer_blocks.*.attn",),
            "ff": ("transformer_blocks.*.img_mlp",),
            "ff_context": ("transformer_blocks.*.txt_mlp",),
        },
        blocks=("transformer_blocks.*",),
        streams=("encoder_hidden_states", "hidden_states"),
        start={"sigmas": [0.8, 0.7, 0.5, 0.4, 0.2, 0.1]},
    ),
)
