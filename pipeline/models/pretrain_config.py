"""Settings of jobs/pretrain.py, which trains the digits DiT. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LEAST = {"steps": 1, "batch_size": 1, "num_layers": 1, "num_heads": 1, "head_dim": 1}
"""Smallest value of each count."""
MOST = 10**6
"""Largest value of each count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """Training of the DiT and of its digit classifier. The defaults give the shipped model."""

    steps: int = 5000
    """AdamW steps of the transformer."""
    batch_size: int = 128
    """Digits in each training step."""
    learning_rate: float = 1e-3
    """Peak learning rate, after a linear warm-up over the first 200 steps (a tenth of a shorter
    training); cosine decay to zero follows."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights; the averaged weights are saved."""
    label_dropout: float = 0.1
    """Share of labels replaced by the null class, for classifier-free guidance."""
    num_layers: int = 8
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads of each block."""
    head_dim: int = 24
    """Width of an attention head; the width of the model is this times --num-heads."""
    beta_schedule: Literal["linear", "squaredcos_cap_v2"] = "linear"
    """Noise schedule: linear betas as in DiT, or the cosine schedule of Nichol & Dhariwal 2021."""
    classifier_epochs: int = 40
    """Passes of the digit classifier over its training images."""
    guidance_scale: float = 2.0
    """Guidance scale that the saved model recommends, and at which its accuracy is measured."""
    seed: int = 0
    """Random seed of weights, batches and noise."""

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if not least <= (value := getattr(self, name)) <= MOST:
                raise ValueError(
                    f"{name} must be from {least} to {MOST}. Got {value}. Leave it out."
                )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1. Got {self.seed}. Pass 0.")
        if self.num_heads * self.head_dim % 4:
            raise ValueError(
                "num_heads times head_dim must be a multiple of 4. Got "
                f"{self.num_heads=}, {self.head_dim=}. Pass 4 and 24."
            )
        for name in ("ema_decay", "label_dropout"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be in [0, 1). Got {value}. Leave it out.")
        if not 0 < self.learning_rate <= 1:
            raise ValueError(
                f"learning_rate must be above 0 and at most 1. Got {self.learning_rate}. Pass 1e-3."
            )
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale must be finite. Got {self.guidance_scale}. Pass 2.0.")
        if self.classifier_epochs < 0:
            raise ValueError(
                f"classifier_epochs must be at least 0. Got {self.classifier_epochs}. Pass 40."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainFlags:
    """Train the shipped digits DiT and its classifier, and save them as a diffusers folder."""

    out: str
    """Folder to write, new or empty."""
    training: PretrainConfig
