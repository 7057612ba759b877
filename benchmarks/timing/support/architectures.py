"""Sizes of published diffusion transformers, and the share of their FLOPs in each site."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Sizes of a diffusion transformer at an image size; patches are 2 by 2 latent pixels."""

    num_layers: int
    num_heads: int
    head_dim: int
    latent_size: int
    """Latent pixels a side."""
    caption_length: int = 0
    """Tokens of a caption that each block reads by cross-attention; 0 where a class label does."""
    caption_channels: int = 0
    """Width of those tokens before they are projected."""

    def __post_init__(self) -> None:
        if self.latent_size < 2 or self.latent_size % 2:
            raise ValueError(
                f"latent_size must be even and at least 2. Got {self.latent_size=}. Pass 32."
            )

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_heads * self.head_dim

    @property
    def num_tokens(self) -> int:
        """Tokens of an image."""
        return (self.latent_size // 2) ** 2

    @property
    def site_sets(self) -> tuple[tuple[str, ...], ...]:
        """Sets of sites that are reused together; no whole block where blocks read a caption."""
        sets: tuple[tuple[str, ...], ...] = (("attn",), ("attn", "ff"))
        return sets if self.caption_length else (*sets, ("block",))


# Peebles and Xie 2023 (DiT), table 1, and Chen et al. 2024 (PixArt-Sigma) as its transformer of
# 1024 pixels is configured; the two tiny ones are for tests and for ``gpu_suite --prove``.
ARCHITECTURES = {
    "dit-s-2-256": Architecture(num_layers=12, num_heads=6, head_dim=64, latent_size=32),
    "dit-b-2-256": Architecture(num_layers=12, num_heads=12, head_dim=64, latent_size=32),
    "dit-xl-2-256": Architecture(num_layers=28, num_heads=16, head_dim=72, latent_size=32),
    "dit-xl-2-512": Architecture(num_layers=28, num_heads=16, head_dim=72, latent_size=64),
    "pixart-sigma": Architecture(
        num_layers=28,
        num_heads=16,
        head_dim=72,
        latent_size=128,
        caption_length=300,
        caption_channels=4096,
    ),
    "tiny-dit": Architecture(num_layers=2, num_heads=2, head_dim=8, latent_size=8),
    "tiny-pixart": Architecture(
        num_layers=2,
        num_heads=2,
        head_dim=8,
        latent_size=8,
        caption_length=5,
        caption_channels=12,
    ),
}
PUBLISHED = tuple(name for name in ARCHITECTURES if not name.startswith("tiny"))


def flops_by_part(sizes: Architecture) -> dict[str, float]:
    """FLOPs of a block, per token and in units of the width squared, as ``attn``, ``ff`` and
    ``cross``; a multiply-add counts as two, norms and modulation as nothing.

    Queries, keys and values are 6, the output 2, scores and mixing ``4 N / d``, feed-forward 16.
    Cross-attention to C tokens is a query and an output, 4, ``4 C / d``, and the keys and values
    of the caption, ``4 C / N``.
    """
    tokens, width, caption = sizes.num_tokens, sizes.width, sizes.caption_length
    cross = 4 + 4 * caption / width + 4 * caption / tokens if caption else 0.0
    return {"attn": 8 + 4 * tokens / width, "ff": 16.0, "cross": cross}


def share_of_flops(sizes: Architecture, sites: tuple[str, ...]) -> float:
    """Share of a block's FLOPs in these sites; 1 for a whole ``block``."""
    if sites == ("block",):
        return 1.0
    parts = flops_by_part(sizes)
    return sum(parts[site] for site in sites) / sum(parts.values())


def flops_bound(sizes: Architecture, sites: tuple[str, ...], reuse_ratio: float) -> float:
    """Upper bound of the speed-up by FLOPs, ``1 / (1 - share * r)``; infinite if no FLOPs are
    left."""
    left = 1.0 - share_of_flops(sizes, sites) * reuse_ratio
    return 1.0 / left if left > 0 else math.inf
