"""Settings of jobs/pretrain.py, which trains the digits DiT. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.flags.bounds import INT64, Range, require_within

RANGES = {
    "steps": Range(least=1, most=10**7, usual=5000),
    "batch_size": Range(least=1, most=2**16, usual=128),
    "learning_rate": Range(least=0, most=1, usual=0.001, is_open=True),
    "ema_decay": Range(least=0, most=0.999999, usual=0.999),
    "label_dropout": Range(least=0, most=0.999999, usual=0.1),
    "num_layers": Range(least=1, most=1000, usual=8),
    "num_heads": Range(least=1, most=1000, usual=4),
    "head_dim": Range(least=1, most=1000, usual=24),
    "classifier_epochs": Range(least=0, most=10**5, usual=40),
    "guidance_scale": Range(least=-1000, most=1000, usual=2),
    "seed": Range(least=0, most=INT64, usual=0),
}
"""Values that the flags may have."""
PER_LAYER = 18
"""Parameters of a DiT block in squares of its width: attention 4, feed-forward 8, modulation 6."""
MOST_PARAMETERS = 10**9
"""Most parameters of a model; training takes 20 bytes for each."""


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
        require_within(self, RANGES)
        width = self.num_heads * self.head_dim
        if width % 4:
            raise ValueError(
                "--num-heads times --head-dim must be a multiple of 4. Got "
                f"{self.num_heads} times {self.head_dim}. Pass --num-heads 4 --head-dim 24."
            )
        if (size := PER_LAYER * self.num_layers * width**2) > MOST_PARAMETERS:
            raise ValueError(
                "--num-layers and --num-heads times --head-dim must make a model of at most "
                f"{MOST_PARAMETERS:.0e} parameters. Got {self.num_layers} layers of width {width}, "
                f"which have {size:.0e}. Pass --num-layers 8."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainFlags:
    """Train the shipped digits DiT and its classifier, and save them as a diffusers folder."""

    out: str
    """Folder to write, new or empty."""
    training: PretrainConfig
