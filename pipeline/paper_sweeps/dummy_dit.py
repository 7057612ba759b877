"""The talk's dummy DiT: six random blocks whose attention entropy lies where its thresholds do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

NUM_LAYERS = 6
NUM_CLASSES = 10
LATENT_SHAPE = (4, 16, 16)
"""Channels, height, width; patches of 2 make 64 tokens, so that entropy is at most ln 64 = 4.16."""
SHARPNESS = (2.2, 2.7, 2.2, 2.6, 2.2, 2.4)
"""Factors on each block's query and key weights. The scores grow with their square, which brings
the entropy from almost ln 64 down to about 2.1 to 3.5 nats; blocks differ, so that a threshold
between lets some of them through."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dummy:
    """A random class-conditional DiT and the noise schedule that it is sampled with."""

    transformer: Any
    scheduler: Any


def build_dummy(device: str, seed: int = 0) -> Dummy:
    """The same dummy for the same seed; torch's own generator is left as it was."""
    from diffusers import DDIMScheduler

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = _random_dit()
    for block, sharpness in zip(transformer.transformer_blocks, SHARPNESS, strict=True):
        for projection in (block.attn1.to_q, block.attn1.to_k):
            projection.weight.data.mul_(sharpness)
    # The talk's cosine schedule: its SNR stays in [0.1, 100] for most of the steps.
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    return Dummy(transformer=transformer.to(device).eval(), scheduler=scheduler)


def _random_dit() -> Any:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=48,
        in_channels=LATENT_SHAPE[0],
        out_channels=LATENT_SHAPE[0],
        num_layers=NUM_LAYERS,
        sample_size=LATENT_SHAPE[1],
        patch_size=2,
        num_embeds_ada_norm=NUM_CLASSES,
    )
    return model.requires_grad_(False)
