"""Flags of jobs/sweep.py: one dataclass for each kind of sweep. Imports neither torch nor dqar."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pipeline.models.sampling_choices import Dtype, Sampler
from pipeline.tracking_flags import TrackingFlags

ABLATIONS = ("baseline", "entropy_gate", "quant_cache", "full_dqar")
MAX_STEPS = 1000
SAMPLES_FOR_FID = 64
"""Images of each ablation: FID is the figure of that sweep, and its bias falls with more images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DummySweep:
    """Settings of the threshold sweep. The defaults are the DQAR talk's."""

    thresholds: tuple[float, ...] = (1.5, 3.0, 5.0)
    """Thresholds in nats; attention with a lower entropy may be reused. Every threshold is one
    setting to compare."""
    reuse_limits: tuple[int, ...] = (2, 4, 6)
    """Most reuses of a cached value before the value is computed again; every limit is one setting
    to compare."""
    max_gap: int = 6
    """Most steps between computing a value and its last reuse (--dqar-max-gap in the DQAR paper's
    scripts)."""
    runs: int = 5
    """Repetitions of every setting, each on its own noise sample."""
    steps: int = 12
    """Denoising steps."""
    seed: int = 0
    """Random seed of the dummy's weights and of the noise samples."""

    def __post_init__(self) -> None:
        for name in ("thresholds", "reuse_limits"):
            values = getattr(self, name)
            if not values or not all(0 < value < math.inf for value in values):
                raise ValueError(
                    f"{name} must be one or more positive numbers. Got {values}. Pass 2,4,6."
                )
        for name in ("max_gap", "runs"):
            value = getattr(self, name)
            if not 1 <= value <= MAX_STEPS:
                raise ValueError(f"{name} must be from 1 to {MAX_STEPS}. Got {value}. Pass 5.")
        if not 2 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps must be in [2, {MAX_STEPS}]. Got {self.steps}. Pass 12.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSweep:
    """Settings of a sweep on a trained model."""

    model: str = "digits"
    """Model to sample: digits (shipped), a diffusers folder, or a Hub id."""
    steps: int = 50
    """Denoising steps."""
    guidance_scale: float | None = None
    """Scale of classifier-free guidance; 1 or less samples without guidance. Default: the scale
    that the model recommends."""
    sampler: Sampler = "ddim"
    """Sampler: ddim, or dpm for DPM-Solver++."""
    dtype: Dtype = "fp32"
    """Data type that the model computes in."""
    runs: int = 5
    """Repetitions of every setting, each on its own noise samples."""
    num_samples: int = 16
    """Images sampled for every setting in each repetition."""
    batch_size: int = 32
    """Images sampled side by side; the first batch of each repetition is timed."""
    seed: int = 0
    """Random seed of the noise samples; repetition i uses this seed plus i."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationGrid:
    """Ablations of the DQAR paper's method to compare.

    ``baseline`` samples without reuse; ``entropy_gate`` is the paper's cascade without its layer
    schedule, on an fp32 cache; ``quant_cache`` reuses on every second step without any condition,
    on an int8 cache; ``full_dqar`` is the cascade with its layer schedule on an int8 cache.
    """

    ablations: tuple[str, ...] = ABLATIONS
    """Ablations to compare, among baseline, entropy_gate, quant_cache and full_dqar."""
    entropy_quantile: float = 0.5
    """Quantile of the attention entropies observed on calibration samples that becomes the entropy
    threshold. A quantile fits every model, a threshold in nats does not: the entropy of attention
    over N tokens is at most ln N, such as 2.77 for the 16 tokens of digits."""
    entropy_threshold: float | None = None
    """Entropy threshold in nats. Default: the threshold follows from --entropy-quantile."""

    def __post_init__(self) -> None:
        if not self.ablations:
            raise ValueError("ablations must hold at least one value. Got none. Pass one.")
        if unknown := sorted(set(self.ablations) - set(ABLATIONS)):
            raise ValueError(f"ablations must be among {ABLATIONS}. Got {unknown}. Check them.")
        if not 0.0 <= self.entropy_quantile <= 1.0:
            raise ValueError(
                f"entropy_quantile must be in [0, 1]. Got {self.entropy_quantile}. Pass 0.5."
            )
        if self.entropy_threshold is not None and not self.entropy_threshold > 0:
            raise ValueError(
                f"entropy_threshold must be positive. Got {self.entropy_threshold}. Pass 2.0."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepFlags:
    """Flags of every kind of sweep."""

    kind: ClassVar[str]
    """First argument of jobs/sweep.py."""
    out: str
    """Folder for sweep.json, sweep.png and report.md (--output-dir in the DQAR paper's scripts)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to sample on; auto takes a GPU where torch finds one."""
    tracking: TrackingFlags = field(default_factory=TrackingFlags)


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold(SweepFlags):
    """Compare entropy thresholds and reuse limits on a small random DiT.

    The DQAR paper's script is dummy_benchmark_sweep.py.
    """

    kind: ClassVar[str] = "threshold"
    sweep: DummySweep


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleSweep(SweepFlags):
    """Flags of a sweep over layer schedules on a trained model."""

    schedule_types: ClassVar[tuple[Literal["linear", "linear-reverse"], ...]] = ("linear",)
    warmups: tuple[float, ...] = (0.2,)
    """Shares of the steps, from the first, in which nothing is reused; every share is one setting
    to compare."""
    layer_fractions: tuple[float, ...] = (1 / 3, 1 / 2, 2 / 3, 3 / 4, 1.0)
    """Shares of the layers that may reuse on the last step; every share is one setting to
    compare."""
    cache_bits: Literal[8, 16, 32] = 16
    """Bits of a cached value; the DQAR paper recommends 16."""
    sweep: ModelSweep


@dataclass(frozen=True, kw_only=True, slots=True)
class Warmup(ScheduleSweep):
    """Compare warm-ups of linear layer schedules on a trained model.

    The DQAR paper's script is warmup_sweep.py.
    """

    kind: ClassVar[str] = "warmup"
    warmups: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    layer_fractions: tuple[float, ...] = (1 / 3,)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerFraction(ScheduleSweep):
    """Compare shares of the layers under linear layer schedules on a trained model.

    The DQAR paper's script is layer_sweep.py.
    """

    kind: ClassVar[str] = "layer-fraction"


@dataclass(frozen=True, kw_only=True, slots=True)
class Direction(ScheduleSweep):
    """Compare linear layer schedules that start at the shallowest or the deepest layer.

    Both kinds are sampled on a trained model with the same shares of its layers.
    """

    kind: ClassVar[str] = "direction"
    schedule_types: ClassVar[tuple[Literal["linear", "linear-reverse"], ...]] = (
        "linear",
        "linear-reverse",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablations(SweepFlags):
    """Compare parts of the DQAR paper's method, alone and together, on a trained model.

    The DQAR paper's script is evaluate.py --ablations.
    """

    kind: ClassVar[str] = "ablations"
    grid: AblationGrid
    sweep: ModelSweep = field(default_factory=lambda: ModelSweep(num_samples=SAMPLES_FOR_FID))


KINDS: dict[str, type[Threshold | ScheduleSweep | Ablations]] = {
    kind.kind: kind for kind in (Threshold, Warmup, LayerFraction, Direction, Ablations)
}
"""Flags of each kind of sweep, by the first argument of jobs/sweep.py."""
