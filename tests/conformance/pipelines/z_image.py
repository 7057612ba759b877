"""Z-Image: a list of images as input, one sequence of image and text, stacked guidance that may
end before the run."""

from __future__ import annotations

from typing import Any

from tests.conformance.pipelines.case import Case, noise_of, randomise


def components() -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=3,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=10,
        axes_dims=[4, 6, 6],
        axes_lens=[64, 32, 32],
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return {"transformer": randomise(transformer), "scheduler": scheduler}


def arguments(samples: int, height: int) -> dict[str, Any]:
    return {
        "prompt_embeds": [noise_of(i + 1, 3 + i, 10, first=1)[i] for i in range(samples)],
        "negative_prompt_embeds": [noise_of(i + 1, 2, 10, first=2)[i] for i in range(samples)],
        "latents": noise_of(samples, 4, height // 8, 8),
        "height": height,
        "width": 64,
        "guidance_scale": 3.0,
        "output_type": "latent",
    }


def truncated(samples: int, height: int) -> dict[str, Any]:
    return arguments(samples, height) | {"cfg_truncation": 0.3}


def case(**changes: Any) -> Case:
    return Case(
        pipeline="ZImagePipeline",
        components=components,
        absent=("text_encoder", "tokenizer", "vae"),
        sites={"attn": ("layers.*.attention",), "ff": ("layers.*.feed_forward",)},
        blocks=("layers.*",),
        streams=("x",),
        start={"sigmas": [0.8, 0.7, 0.5, 0.4, 0.2, 0.1]},
        **changes,
    )


CASES = (
    case(name="z_image", arguments=arguments),
    case(name="z_image_truncated", arguments=truncated),
)
