"""CogVideoX: joint attention over text and video, one feed-forward over both."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, noise_of, randomise


def components() -> dict[str, Any]:
    from diffusers import CogVideoXDPMScheduler, CogVideoXTransformer3DModel

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=10,
        num_layers=3,
        sample_width=8,
        sample_height=8,
        sample_frames=5,
        max_text_seq_length=6,
        use_rotary_positional_embeddings=True,
    )
    return {"transformer": randomise(transformer), "scheduler": CogVideoXDPMScheduler()}


def arguments(samples: int, height: int) -> dict[str, Any]:
    import torch

    return {
        "prompt_embeds": noise_of(samples, 6, 10, first=1),
        "negative_prompt_embeds": noise_of(samples, 6, 10, first=2),
        "latents": noise_of(samples, 2, 4, height // 8, 8),
        "generator": [torch.Generator().manual_seed(5 + sample) for sample in range(samples)],
        "height": height,
        "width": 64,
        "num_frames": 5,
        "guidance_scale": 3.0,
        "output_type": "latent",
    }


CASES = (
    Case(
        name="cogvideox",
        pipeline="CogVideoXPipeline",
        components=components,
        absent=("text_encoder", "tokenizer", "vae"),
        arguments=arguments,
        sites={"attn": ("transformer_blocks.*.attn1",), "ff": ("transformer_blocks.*.ff",)},
        blocks=("transformer_blocks.*",),
        streams=("hidden_states", "encoder_hidden_states"),
    ),
)
