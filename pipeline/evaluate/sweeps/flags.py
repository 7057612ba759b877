"""Flags of jobs/sweep.py: one dataclass for each kind of sweep. Imports neither torch nor dqar."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pipeline.flags.bounds import (
    BATCH,
    GUIDANCE,
    STEPS,
    Range,
    require_distinct,
    require_some,
    require_within,
)
from pipeline.flags.values import quoted
from pipeline.models.sampling_choices import Dtype, Sampler, require_sampler
from pipeline.tracking_flags import TrackingFlags

ABLATIONS = ("baseline", "entropy_gate", "quant_cache", "full_dqar")
MAX_STEPS = 1000
SAMPLES_FOR_FID = 64
"""Images of each ablation: FID is the figure of that sweep, and its bias falls with more images."""
QUANTILE = 0.5
"""Quantile of the attention entropies where neither a quantile nor a threshold is given."""
NATS = 10**6
"""Largest entropy threshold in nats; entropies are below 20."""
SWEPT = {
    "runs": Range(least=1, most=MAX_STEPS, usual=5),
    # Repetition i samples with the seed plus i.
    "seed": Range(least=-(2**62), most=2**62, usual=0),
}
DUMMY_RANGES = SWEPT | {
    "thresholds": Range(least=0, most=NATS, usual="1.5,3,5", is_open=True),
    "reuse_limits": Range(least=1, most=NATS, usual="2,4,6"),
    "max_gap": Range(least=1, most=MAX_STEPS, usual=6),
    "steps": Range(least=2, most=MAX_STEPS, usual=12),
}
MODEL_RANGES = SWEPT | {
    "num_samples": Range(least=1, most=10**6, usual=16),
    "batch_size": BATCH,
    "steps": STEPS,
    "guidance_scale": GUIDANCE,
}
GRID_RANGES = {
    "entropy_quantile": Range(least=0, most=1, usual=QUANTILE),
    "entropy_threshold": Range(least=0, most=NATS, usual=2, is_open=True),
}
SCHEDULE_RANGES = {
    "warmups": Range(least=0, most=1, usual=0.2),
    "layer_fractions": Range(least=0, most=1, usual="1/3,1/2"),
}
"""Values that the flags may have."""


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
        require_within(self, DUMMY_RANGES)
        require_some(self, "thresholds", "reuse_limits")
        require_distinct(self, "thresholds", "reuse_limits")


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
    """Sampler: ddim, dpm (DPM-Solver++), unipc, deis, or saved (the scheduler of the model's
    folder), with settings such as dpm:solver_order=3,use_karras_sigmas=true."""
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

    def __post_init__(self) -> None:
        require_within(self, MODEL_RANGES)
        require_sampler(self.sampler)


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationGrid:
    """Ablations of the DQAR paper's method to compare.

    ``baseline`` samples without reuse; ``entropy_gate`` is the paper's cascade without its layer
    schedule, on an fp32 cache; ``quant_cache`` reuses on every second step without any condition,
    on an int8 cache; ``full_dqar`` is the cascade with its layer schedule on an int8 cache.
    """

    ablations: tuple[str, ...] = ABLATIONS
    """Ablations to compare, among baseline, entropy_gate, quant_cache and full_dqar."""
    entropy_quantile: float | None = None
    """Quantile of the attention entropies observed on calibration samples that becomes the entropy
    threshold. A quantile fits every model, a threshold in nats does not: the entropy of attention
    over N tokens is at most ln N, such as 2.77 for the 16 tokens of digits. Default: 0.5, without
    --entropy-threshold."""
    entropy_threshold: float | None = None
    """Entropy threshold in nats. Default: the threshold follows from --entropy-quantile."""

    def __post_init__(self) -> None:
        require_within(self, GRID_RANGES)
        require_some(self, "ablations")
        require_distinct(self, "ablations")
        if unknown := sorted(set(self.ablations) - set(ABLATIONS)):
            raise ValueError(
                f"--ablations must be among {', '.join(ABLATIONS)}. Got {quoted(unknown[0])}. "
                "Pass --ablations baseline,full_dqar."
            )
        if self.entropy_threshold is not None and self.entropy_quantile is not None:
            raise ValueError(
                "--entropy-threshold must come without --entropy-quantile. Got both. Leave out the "
                "one or the other."
            )

    def decided(self) -> AblationGrid:
        """Return the grid with the quantile that holds where the flags name none."""
        is_open = self.entropy_quantile is None and self.entropy_threshold is None
        return replace(self, entropy_quantile=QUANTILE) if is_open else self


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

    def __post_init__(self) -> None:
        require_within(self, SCHEDULE_RANGES)
        require_some(self, "warmups", "layer_fractions")
        require_distinct(self, "warmups", "layer_fractions")


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
