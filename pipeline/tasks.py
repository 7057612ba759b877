"""What an evaluation's worker is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dqar.config import CachedParts, DQARConfig
from dqar.gates import Gate
from dqar.quantization import Granularity
from pipeline.models import Dtype, Sampler


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """What every point of an evaluation shares."""

    model: str
    steps: int = 50
    guidance_scale: float = 4.0
    sampler: Sampler = "ddim"
    sites: tuple[str, ...] = ("attn",)
    num_samples: int = 64
    """Unseen samples of each point."""
    batch_size: int = 32
    """Samples side by side."""
    cached: CachedParts = "output"
    """What ``attn`` caches: its output, or its keys and values."""
    cache_bits: Literal[2, 4, 8, 16, 32] = 8
    """Bits of a cached value."""
    cache_granularity: Granularity = "per_tensor"
    """Granularity of an integer cache's scales."""
    quantize_keys: bool = True
    """False keeps cached keys in fp16."""
    balanced: bool = False
    """Whether the cache's channels are balanced by salience, calibrated on calibration noise."""
    cross_branch_threshold: float | None = None
    """Distance at which the unconditional rows take the conditional value; None never."""
    dtype: Dtype = "fp32"
    seed: int = 0
    """Seed of the evaluation noise."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "batch_size"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1. Got {value}. Pass 64.")
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2. Got {self.steps}. Pass --steps 50.")
        self.dqar_config()

    def dqar_config(self) -> DQARConfig:
        """How the model is instrumented."""
        return DQARConfig(
            quantization_bits=self.cache_bits,
            quantization_mode=self.cache_granularity,
            quantize_keys=self.quantize_keys,
            cached=self.cached,
            cross_branch_threshold=self.cross_branch_threshold,
            sites=self.sites,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Calibration: run a gate whose parameter may differ by sample, on calibration noise."""

    name: str
    gate: Gate
    num_samples: int
    noise_ids: tuple[int, ...] = ()
    """Noise of each sample; the first ``num_samples`` by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """What a probe saw."""

    reuse_ratio: Float[Tensor, " b"]
    """By sample."""
    share: Float[Tensor, "t g"]
    """Share of samples that reused, by step and gate."""
    error: Float[Tensor, " b"]
    """Relative L2 to the twin, by sample."""
    entropies: Float[Tensor, " n"]
    """Entropies that the gates saw."""
    snrs: list[float]
    """SNR by step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One point on the evaluation noise."""

    row: dict[str, Any]
    """The row of results.json."""
    images: np.ndarray
    """The first images, ``[b, height, width, channels]`` in [0, 1]."""
    twin_images: np.ndarray
