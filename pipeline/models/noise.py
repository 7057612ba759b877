"""Noise and labels by key: ``hash(purpose, seed, index)``, so that no stage sees another's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Purpose = Literal["collect", "calibrate", "evaluate", "explore", "sample"]
"""What noise is drawn for. ``explore`` keys the coins of randomised decisions."""


def noise_key(purpose: Purpose, seed: int, index: int) -> int:
    """A 63-bit generator seed, the same on every machine."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def round_seed(seed: int, policy_digest: str) -> int:
    """The seed of a collection's noise and coins: its own, or, of one that explores around a
    policy, another for each policy, so that it repeats nothing of what the policy learned from.

    Args:
        policy_digest: of the policy; empty for none.
    """
    if not policy_digest:
        return seed
    digest = hashlib.sha256(f"round/{seed}/{policy_digest}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(purpose: Purpose, seed: int, index: int) -> torch.Generator:
    """A CPU generator of its own for one key."""
    return torch.Generator().manual_seed(noise_key(purpose, seed, index))


def draw_noise(
    purpose: Purpose, seed: int, indices: Sequence[int], shape: tuple[int, ...], num_classes: int
) -> tuple[Float[Tensor, "b *shape"], Int[Tensor, " b"]]:
    """Initial latents and class labels of some noise ids, on the CPU in fp32."""
    latents, labels = [], []
    for index in indices:
        generator = generator_for(purpose, seed, index)
        latents.append(torch.randn(shape, generator=generator))
        labels.append(torch.randint(num_classes, (), generator=generator))
    return torch.stack(latents), torch.stack(labels)


def batches_of(count: int, at_once: int) -> list[range]:
    """Indices of so many samples in batches."""
    starts = range(0, count, at_once)
    return [range(start, min(start + at_once, count)) for start in starts]
