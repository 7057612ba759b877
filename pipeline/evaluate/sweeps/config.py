"""Settings of the sweeps: the grid, the model and the number of runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from dqar.config import DQARConfig
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.sweeps.grids import AblationGrid, CacheBits, ScheduleGrid
from pipeline.models.sampling_choices import Dtype, Sampler

MAX_STEPS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """A sweep over layer schedules or ablations on a trained model."""

    kind: str
    """Name of the sweep."""
    grid: ScheduleGrid | AblationGrid
    """Gates that are swept."""
    model: str = "digits"
    """``digits``, a diffusers folder or a hub id."""
    steps: int = 50
    """Denoising steps."""
    guidance_scale: float = 4.0
    """Classifier-free guidance."""
    sampler: Sampler = "ddim"
    """Name of the sampler."""
    dtype: Dtype = "fp32"
    """Arithmetic of the model."""
    runs: int = 5
    """Runs, each on its own noise samples."""
    num_samples: int = 16
    """Samples of a point in each run."""
    batch_size: int = 32
    """Samples side by side; the first batch of a run is timed."""
    seed: int = 0
    """Seed of the first run's noise samples; each later run takes the next."""

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ValueError(f"runs must be at least 1. Got {self.runs}. Pass 5.")
        self.evaluate_config(0, 8)

    def evaluate_config(self, run: int, cache_bits: CacheBits) -> EvaluateConfig:
        """The settings that all points of a run with the same cache share."""
        return EvaluateConfig(
            model=self.model,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            sampler=self.sampler,
            num_samples=self.num_samples,
            batch_size=self.batch_size,
            cache_bits=cache_bits,
            dtype=self.dtype,
            seed=self.seed + run,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ThresholdConfig:
    """The DQAR talk's sweep over entropy threshold and reuse limit on the dummy DiT; the defaults
    are the talk's."""

    kind: ClassVar[str] = "threshold"
    thresholds: tuple[float, ...] = (1.5, 3.0, 5.0)
    """Entropy thresholds tau, nats."""
    reuse_limits: tuple[int, ...] = (2, 4, 6)
    """Most reuses of an entry since its commit."""
    max_gap: int = 6
    """Most steps since an entry's commit."""
    runs: int = 5
    """Runs of each point, each on its own noise sample."""
    steps: int = 12
    """Denoising steps of a run."""
    seed: int = 0
    """Seed of the weights and of the noise samples."""
    device: str = "cpu"
    """Device of the dummy."""

    def __post_init__(self) -> None:
        for name in ("thresholds", "reuse_limits"):
            values = getattr(self, name)
            if not values or min(values) <= 0:
                raise ValueError(
                    f"{name} must be one or more positive numbers. Got {values}. Pass 2,4,6."
                )
        for name in ("max_gap", "runs"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1. Got {value}. Pass 5.")
        if not 2 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps must be in [2, {MAX_STEPS}]. Got {self.steps}. Pass 12.")

    def dqar_config(self, threshold: float, reuse_limit: int) -> DQARConfig:
        """The talk's values with one point's threshold and limit."""
        return replace(
            DQARConfig.slides(),
            entropy_threshold=threshold,
            max_reuse_per_block=reuse_limit,
            max_gap=self.max_gap,
        )

    def evaluate_config(self) -> EvaluateConfig:
        """The settings of a run: one sample without guidance, the talk's cache."""
        return EvaluateConfig(
            model="dummy",
            steps=self.steps,
            guidance_scale=1.0,
            num_samples=1,
            batch_size=1,
            cache_bits=DQARConfig.slides().quantization_bits,
            seed=self.seed,
        )
