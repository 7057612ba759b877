"""The description of one tiny pipeline: its components, its call, and its modules by site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 6
"""Sampling steps of a run; even, so that a period of two computes exactly half of them."""
SAMPLES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One family: a stock pipeline class with tiny random models, and how to call it."""

    name: str
    pipeline: str
    """Name of the pipeline's class in diffusers."""
    components: Callable[[], dict[str, Any]]
    """Makes the components that are not None."""
    absent: tuple[str, ...]
    """Components that the call does not need, passed as None."""
    arguments: Callable[..., dict[str, Any]]
    """Arguments of the call: ``arguments(samples, height)``; sample i is the same in each batch."""
    sites: dict[str, tuple[str, ...]]
    """Modules of each site that is an output, as patterns of names."""
    blocks: tuple[str, ...]
    """Patterns of the names of blocks, one for each stack, in the order in which they run."""
    streams: tuple[str, ...] = ("hidden_states",)
    """Parameters of a block that it returns, in the order in which it returns them."""
    has_stack: bool = True
    """True if a stack of blocks can be left out as a whole."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the pipeline's constructor."""
    tall: int = 96
    """Another height."""
    low: int = 64
    """The usual height."""
    start: dict[str, Any] | None = None
    """Arguments by which the run starts late or steps unevenly, where the pipeline has them."""
    steps: int = STEPS
    tolerance: float = 1e-6
    """Largest error of a sample in a mixed batch, relative to its largest value."""

    @property
    def names(self) -> tuple[str, ...]:
        """Components that are transformers."""
        return ("transformer", "transformer_2") if self.options else ("transformer",)


def randomise(model: nn.Module, seed: int = 0, gain: float = 1.0) -> Any:
    """Give every weight a random value of a size that makes every module change its output."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            value = gain * noise / weight[0].numel() ** 0.5
        else:
            value = 0.1 * noise + (1.0 if "weight" in name else 0.0)
        weight.data.copy_(value)
    return model.eval().requires_grad_(False)


def noise_of(samples: int, *shape: int, first: int = 0) -> Tensor:
    """Random values of each sample, which do not depend on the number of samples."""
    return torch.stack(
        [
            torch.randn(shape, generator=torch.Generator().manual_seed(1000 * first + sample))
            for sample in range(samples)
        ]
    )


def mask_of(samples: int, length: int, shortest: int = 3) -> Tensor:
    """Mask of prompts, where sample i has ``shortest + i`` of ``length`` tokens."""
    lengths = torch.arange(samples) + shortest
    return (torch.arange(length)[None] < lengths[:, None].clamp(max=length)).long()


def tiny_vae(channels: int = 4, scale: int = 8) -> Any:
    """Autoencoder of images with few weights."""
    from diffusers import AutoencoderKL

    levels = scale.bit_length()
    vae = AutoencoderKL(
        block_out_channels=(4,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=8 * scale,
        mid_block_add_attention=False,
        shift_factor=0.0,
    )
    return randomise(vae)
