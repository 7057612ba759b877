"""Sana: linear attention and a convolution as feed-forward; Sprint embeds its guidance."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, mask_of, noise_of, randomise


def transformer_of(guidance_embeds: bool) -> Any:
    from diffusers import SanaTransformer2DModel

    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=3,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=10,
        sample_size=32,
        guidance_embeds=guidance_embeds,
        qk_norm="rms_norm_across_heads" if guidance_embeds else None,
    )
    return randomise(transformer)


def components() -> dict[str, Any]:
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    return {"transformer": transformer_of(False), "scheduler": scheduler}


def sprint_components() -> dict[str, Any]:
    from diffusers import SCMScheduler

    return {"transformer": transformer_of(True), "scheduler": SCMScheduler()}


def arguments(samples: int, height: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise_of(samples, 6, 10, first=1),
        "prompt_attention_mask": mask_of(samples, 6),
        "latents": noise_of(samples, 4, height // 32, 4),
        "height": height,
        "width": 128,
        "guidance_scale": 3.0,
        "use_resolution_binning": False,
        "output_type": "latent",
    }


def guided(samples: int, height: int) -> dict[str, Any]:
    return arguments(samples, height) | {
        "negative_prompt": None,
        "negative_prompt_embeds": noise_of(samples, 6, 10, first=2),
        "negative_prompt_attention_mask": mask_of(samples, 6, 1),
    }


def sprint(samples: int, height: int) -> dict[str, Any]:
    import torch

    generators = [torch.Generator().manual_seed(5 + sample) for sample in range(samples)]
    return arguments(samples, height) | {"generator": generators, "intermediate_timesteps": None}


def case(**changes: Any) -> Case:
    return Case(
        absent=("tokenizer", "text_encoder", "vae"),
        sites={
            "attn": ("transformer_blocks.*.attn1",),
            "cross": ("transformer_blocks.*.attn2",),
            "ff": ("transformer_blocks.*.ff",),
        },
        blocks=("transformer_blocks.*",),
        low=128,
        tall=192,
        **changes,
    )


CASES = (
    case(
        name="sana",
        pipeline="SanaPipeline",
        components=components,
        arguments=guided,
    ),
    case(
        name="sana_sprint",
        pipeline="SanaSprintPipeline",
        components=sprint_components,
        arguments=sprint,
    ),
)
