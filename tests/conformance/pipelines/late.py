"""Pipelines that start from an image, and so at a later timestep of the scheduler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tests.conformance.pipelines import CASES
from tests.conformance.pipelines.case import Case, noise_of, tiny_vae


def late(name: str, pipeline: str, image: Callable[[], Any], vae: Callable[[], Any]) -> Case:
    base = CASES[name]

    def components() -> dict[str, Any]:
        return base.components() | {"vae": vae()}

    def arguments(samples: int, height: int) -> dict[str, Any]:
        import torch

        given = base.arguments(samples, height)
        generators = [torch.Generator().manual_seed(5 + sample) for sample in range(samples)]
        del given["latents"]
        given["image"] = image()[:samples]
        return given | {"generator": generators, "strength": 0.7, "num_inference_steps": 10}

    return dataclasses.replace(
        base,
        name=f"{name}_late",
        pipeline=pipeline,
        components=components,
        arguments=arguments,
        absent=tuple(name for name in base.absent if name != "vae"),
        steps=10,
    )


def pixels() -> Any:
    return noise_of(2, 3, 64, 64).clamp(-1, 1) / 2 + 0.5


START = 3
"""Index of the first timestep; odd, so that a run counted from 0 would reuse at other steps."""
LATE: dict[str, Case] = {
    case.name: case
    for case in (
        late("sd3", "StableDiffusion3Img2ImgPipeline", pixels, tiny_vae),
        late("flux", "FluxImg2ImgPipeline", pixels, tiny_vae),
        late("z_image", "ZImageImg2ImgPipeline", pixels, tiny_vae),
    )
}
