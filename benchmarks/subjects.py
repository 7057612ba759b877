"""Models to time: published architectures with random weights, which cost what trained ones do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Sizes of a DiT (Peebles and Xie 2023, table 1) at an image size."""

    num_layers: int
    num_heads: int
    head_dim: int
    latent_size: int
    """Latent pixels a side; tokens are a quarter of their square."""


ARCHITECTURES = {
    "dit-s-2-256": Architecture(num_layers=12, num_heads=6, head_dim=64, latent_size=32),
    "dit-b-2-256": Architecture(num_layers=12, num_heads=12, head_dim=64, latent_size=32),
    "dit-xl-2-256": Architecture(num_layers=28, num_heads=16, head_dim=72, latent_size=32),
    "dit-xl-2-512": Architecture(num_layers=28, num_heads=16, head_dim=72, latent_size=64),
}


def build_model(name: str, device: str, dtype: torch.dtype) -> Any:
    """A diffusers DiT of that architecture with random weights."""
    from diffusers import DiTTransformer2DModel

    sizes = ARCHITECTURES[name]
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model: Any = DiTTransformer2DModel(
            num_attention_heads=sizes.num_heads,
            attention_head_dim=sizes.head_dim,
            in_channels=4,
            out_channels=8,
            num_layers=sizes.num_layers,
            sample_size=sizes.latent_size,
            patch_size=2,
            num_embeds_ada_norm=1000,
        )
    return model.eval().requires_grad_(False).to(device, dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Inputs of one guided step: conditional rows, then unconditional ones."""

    latents: torch.Tensor
    labels: torch.Tensor

    @property
    def num_samples(self) -> int:
        """Rows of one branch."""
        return len(self.latents) // 2

    def call(self, model: Any, timestep: float) -> torch.Tensor:
        """One forward of the transformer."""
        steps = torch.full((len(self.latents),), timestep, device=self.latents.device)
        return model(self.latents, timestep=steps, class_labels=self.labels).sample


def build_batch(name: str, num_samples: int, device: str, dtype: torch.dtype) -> Batch:
    """Random latents and labels of ``2 * num_samples`` rows."""
    size = ARCHITECTURES[name].latent_size
    generator = torch.Generator().manual_seed(SEED)
    latents = torch.randn(2 * num_samples, 4, size, size, generator=generator)
    labels = torch.randint(0, 1000, (num_samples,), generator=generator)
    both = torch.cat([labels, torch.full_like(labels, 1000)])
    return Batch(latents=latents.to(device, dtype), labels=both.to(device))
