"""Models to time: published architectures with random weights, as fast as with trained ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing.support.architectures import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture", "Batch", "build_batch", "build_model"]

SEED = 0
NUM_CLASSES = 1000
NULL_CLASS = 1000


def build_model(name: str, device: str, dtype: torch.dtype) -> Any:
    """A diffusers transformer of a named architecture with random weights."""
    return model_of(ARCHITECTURES[name], device, dtype)


def build_batch(name: str, num_samples: int, device: str, dtype: torch.dtype) -> Batch:
    """Random inputs of ``2 * num_samples`` rows for a named architecture."""
    return batch_of(ARCHITECTURES[name], num_samples, device, dtype)


def model_of(sizes: Architecture, device: str, dtype: torch.dtype) -> Any:
    """A diffusers DiT, or a PixArt where blocks read a caption."""
    # Weights are drawn on the device: a CPU takes a minute for what a GPU draws at once.
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(SEED)
        model = _pixart_of(sizes) if sizes.caption_length else _dit_of(sizes)
    return model.eval().requires_grad_(False).to(device, dtype)


def _dit_of(sizes: Architecture) -> Any:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=sizes.num_heads,
        attention_head_dim=sizes.head_dim,
        in_channels=4,
        out_channels=8,
        num_layers=sizes.num_layers,
        sample_size=sizes.latent_size,
        patch_size=2,
        num_embeds_ada_norm=NUM_CLASSES,
    )


def _pixart_of(sizes: Architecture) -> Any:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        num_attention_heads=sizes.num_heads,
        attention_head_dim=sizes.head_dim,
        in_channels=4,
        out_channels=8,
        num_layers=sizes.num_layers,
        cross_attention_dim=sizes.width,
        sample_size=sizes.latent_size,
        patch_size=2,
        interpolation_scale=2,
        use_additional_conditions=False,
        caption_channels=sizes.caption_channels,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Inputs of one guided step: both branches of every sample."""

    latents: Tensor
    """``[2 * samples, 4, side, side]``."""
    conditions: dict[str, Any]
    """Further arguments of the transformer by name: labels, or captions and their mask."""

    @property
    def num_samples(self) -> int:
        """Number of rows of one branch."""
        return len(self.latents) // 2

    def call(self, model: Any, timestep: float) -> Tensor:
        """One forward of the transformer."""
        steps = torch.full((len(self.latents),), timestep, device=self.latents.device)
        return model(self.latents, timestep=steps, **self.conditions).sample


def batch_of(sizes: Architecture, num_samples: int, device: str, dtype: torch.dtype) -> Batch:
    """Random latents, with labels or captions, of ``2 * num_samples`` rows."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (2 * num_samples, 4, sizes.latent_size, sizes.latent_size)
    latents = torch.randn(shape, generator=generator)
    conditions = _captions if sizes.caption_length else _labels
    return Batch(
        latents=latents.to(device, dtype),
        conditions=conditions(sizes, num_samples, generator, device, dtype),
    )


def _labels(
    sizes: Architecture, num_samples: int, generator: Any, device: str, dtype: torch.dtype
) -> dict[str, Any]:
    del sizes, dtype
    labels = torch.randint(0, NUM_CLASSES, (num_samples,), generator=generator)
    both = torch.cat([labels, torch.full_like(labels, NULL_CLASS)])
    return {"class_labels": both.to(device)}


def _captions(
    sizes: Architecture, num_samples: int, generator: Any, device: str, dtype: torch.dtype
) -> dict[str, Any]:
    # Padded to full length, as in PixArt's pipeline, so that all captions take the same time.
    shape = (2 * num_samples, sizes.caption_length, sizes.caption_channels)
    captions = torch.randn(shape, generator=generator)
    return {
        "encoder_hidden_states": captions.to(device, dtype),
        "encoder_attention_mask": torch.ones(shape[:2], device=device, dtype=dtype),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
