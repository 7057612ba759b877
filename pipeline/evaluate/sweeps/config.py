"""Settings of a sweep in which every value is decided: the flags, the grid and the device."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from dqar.config import DQARConfig
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.sweeps.flags import AblationGrid, DummySweep, ModelSweep
from pipeline.evaluate.sweeps.grids import CacheBits, ScheduleGrid
from pipeline.models.sampling_choices import canonical_sampler
from pipeline.redaction import without_secrets


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig(ModelSweep):
    """A sweep over layer schedules or ablations on a trained model."""

    kind: str
    """Kind of sweep: warmup, layer-fraction, direction or ablations."""
    grid: ScheduleGrid | AblationGrid
    """Layer schedules or ablations to compare."""
    # Every field is keyword-only, so that this one may have no default although its base has one.
    guidance_scale: float  # pyright: ignore[reportGeneralTypeIssues]
    """Scale of classifier-free guidance; 1 or less samples without guidance."""

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ValueError(f"runs must be at least 1. Got {self.runs}. Pass 5.")
        self.evaluate_config(0, 8)

    def evaluate_config(self, run: int, cache_bits: CacheBits) -> EvaluateConfig:
        """Return the settings that all points of a run with the same cache share.

        Raises:
            ValueError: if a setting is out of range.
        """
        return EvaluateConfig(
            model=self.model,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            sampler=canonical_sampler(self.sampler),
            num_samples=self.num_samples,
            batch_size=self.batch_size,
            cache_bits=cache_bits,
            dtype=self.dtype,
            seed=self.seed + run,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ThresholdConfig(DummySweep):
    """The DQAR talk's sweep over entropy thresholds and reuse limits on the dummy DiT."""

    kind: ClassVar[str] = "threshold"
    device: str = "cpu"
    """Device of the dummy DiT, as torch names it."""

    def dqar_config(self, threshold: float, reuse_limit: int) -> DQARConfig:
        """Return the talk's configuration with one threshold in nats and one reuse limit."""
        return replace(
            DQARConfig.slides(),
            entropy_threshold=threshold,
            max_reuse_per_block=reuse_limit,
            max_gap=self.max_gap,
        )

    def evaluate_config(self) -> EvaluateConfig:
        """Return the settings of a run: one sample without guidance, the talk's cache."""
        return EvaluateConfig(
            model="dummy",
            steps=self.steps,
            guidance_scale=1.0,
            num_samples=1,
            batch_size=1,
            cache_bits=DQARConfig.slides().quantization_bits,
            seed=self.seed,
        )


def settings_of(config: SweepConfig | ThresholdConfig) -> dict[str, Any]:
    """Return the settings as sweep.json stores them: kind and grid first, where there are any."""
    fields = asdict(config)
    if "model" in fields:
        # A path may look like a URI with a token.
        fields["model"] = without_secrets(fields["model"])
    return {name: fields[name] for name in ("kind", "grid", *fields) if name in fields}
