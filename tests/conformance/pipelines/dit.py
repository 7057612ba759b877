"""DiT: class labels, guidance branches stacked in one call."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, randomise, tiny_vae


def components() -> dict[str, Any]:
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        sample_size=8,
        num_embeds_ada_norm=1000,
    )
    scheduler = DDIMScheduler(clip_sample=False)
    return {"transformer": randomise(transformer), "vae": tiny_vae(), "scheduler": scheduler}


def arguments(samples: int, height: int) -> dict[str, Any]:
    import torch

    del height  # DiTPipeline samples one size
    generators = [torch.Generator().manual_seed(5 + sample) for sample in range(samples)]
    return {
        "class_labels": [207, 360, 12, 7][:samples],
        "generator": generators,
        "guidance_scale": 3.0,
        "output_type": "pt",
    }


CASES = (
    Case(
        name="dit",
        pipeline="DiTPipeline",
        components=components,
        absent=(),
        arguments=arguments,
        sites={"attn": ("transformer_blocks.*.attn1",), "ff": ("transformer_blocks.*.ff",)},
        blocks=("transformer_blocks.*",),
    ),
)
