"""Noise samples and labels by key ``hash(purpose, seed, index)``.

Noise samples of different purposes are independent, so that an evaluation never samples from noise
that training or calibration has used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Purpose = Literal["collect", "calibrate", "evaluate", "explore", "sample"]
"""Purpose of a noise sample. ``explore`` keys the random draws of randomised reuse decisions."""


def noise_key(purpose: Purpose, seed: int, index: int) -> int:
    """Return the 63-bit seed of a generator, the same on every machine."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def round_seed(seed: int, policy_digest: str) -> int:
    """Return the seed of a collection's noise samples and random draws.

    A collection that explores around a policy has another seed for each policy, so that it does not
    repeat the trajectories that the policy was trained on.

    Args:
        seed: seed of the collection.
        policy_digest: digest of the policy; empty for a collection without a policy, whose seed is
            returned unchanged.
    """
    if not policy_digest:
        return seed
    digest = hashlib.sha256(f"round/{seed}/{policy_digest}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(purpose: Purpose, seed: int, index: int) -> torch.Generator:
    """Return a new CPU generator for one key."""
    return torch.Generator().manual_seed(noise_key(purpose, seed, index))


def draw_noise(
    purpose: Purpose, seed: int, indices: Sequence[int], shape: tuple[int, ...], num_classes: int
) -> tuple[Float[Tensor, "b *shape"], Int[Tensor, " b"]]:
    """Draw initial latents and class labels, on the CPU in fp32.

    Args:
        purpose: purpose of the noise samples.
        seed: random seed.
        indices: index of each noise sample.
        shape: shape of a latent.
        num_classes: labels are drawn uniformly from 0 to ``num_classes - 1``.
    """
    latents, labels = [], []
    for index in indices:
        generator = generator_for(purpose, seed, index)
        latents.append(torch.randn(shape, generator=generator))
        labels.append(torch.randint(num_classes, (), generator=generator))
    return torch.stack(latents), torch.stack(labels)


def batches_of(count: int, at_once: int) -> list[range]:
    """Divide the indices 0 to ``count - 1`` into batches of at most ``at_once``."""
    starts = range(0, count, at_once)
    return [range(start, min(start + at_once, count)) for start in starts]
