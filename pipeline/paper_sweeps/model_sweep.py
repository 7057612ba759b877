"""Sweeps on a trained model: every candidate on the noise of every run, right after its twin."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dqar.gates.rules import NeverReuse
from pipeline.evaluate.config import FIGURES, EvaluateConfig
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.base import OperatingPoint
from pipeline.methods.calibration import CalibrationTask
from pipeline.models.loading import Dtype, Sampler
from pipeline.models.model_info import find_model
from pipeline.paper_sweeps.grids import (
    DIT_XL,
    AblationGrid,
    CacheBits,
    Candidate,
    ScheduleGrid,
    schedule_ratio,
)
from pipeline.paper_sweeps.statistics import Sweep, Swept, rotated
from pipeline.progress import Progress

PROBED = 32
"""Samples whose entropy is observed before the ablations."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """Which grid is swept, on which model, how often."""

    kind: str
    """Name of the sweep."""
    grid: ScheduleGrid | AblationGrid
    """What is swept."""
    model: str = "digits"
    """``digits``, a diffusers folder or a hub id."""
    steps: int = 50
    """Denoising steps."""
    guidance_scale: float = 4.0
    """Classifier-free guidance."""
    sampler: Sampler = "ddim"
    """Which sampler."""
    dtype: Dtype = "fp32"
    """Arithmetic of the model."""
    runs: int = 5
    """Runs, each on noise of its own."""
    num_samples: int = 16
    """Samples of a point in each run."""
    batch_size: int = 32
    """Samples side by side; the first batch of a run is timed."""
    seed: int = 0
    """Seed of the first run's noise; each later run takes the next."""

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ValueError(f"runs must be at least 1. Got {self.runs}. Pass 5.")
        self.evaluate_config(0, 8)

    def evaluate_config(self, run: int, cache_bits: CacheBits) -> EvaluateConfig:
        """What every point of a run shares."""
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


def sweep_model(config: SweepConfig) -> Sweep:
    """Every point of the grid in every run, in an order that rotates from run to run."""
    candidates, facts = lay_out(config)
    progress = Progress("sweep", config.runs * len(candidates), "points")
    runs = [_measure_run(config, candidates, run, progress) for run in range(config.runs)]
    info = find_model(config.model)
    points = [
        Swept(
            setting=candidate.setting,
            runs=tuple(run[index] for run in runs),
            facts=_reuse_by_arithmetic(config, candidate, info.num_layers),
        )
        for index, candidate in enumerate(candidates)
    ]
    return Sweep(kind=config.kind, config=asdict(config), facts=facts, points=points)


def lay_out(config: SweepConfig) -> tuple[list[Candidate], dict[str, float]]:
    """The candidates, and what was observed to choose them."""
    if isinstance(config.grid, ScheduleGrid):
        return config.grid.candidates(), {}
    if config.grid.entropy_threshold is not None:
        tau = config.grid.entropy_threshold
        return config.grid.candidates(tau), {"entropy_threshold": tau}
    facts = observe_entropy(config, config.grid.entropy_quantile)
    return config.grid.candidates(facts["entropy_threshold"]), facts


def observe_entropy(config: SweepConfig, quantile: float) -> dict[str, float]:
    """Entropies in nats that gates see on calibration noise, and the quantile taken for tau."""
    worker = EvaluationWorker(config.evaluate_config(0, 32))
    task = CalibrationTask(
        name="observe", gate=NeverReuse(), num_samples=min(PROBED, config.batch_size)
    )
    entropies = worker.calibrate(task).entropies
    return {
        "entropy_min": float(entropies.min()),
        "entropy_max": float(entropies.max()),
        # The gate passes what lies below tau: a hair more, so that quantile 1 passes all.
        "entropy_threshold": float(entropies.quantile(quantile)) * (1.0 + 1e-6),
    }


def _measure_run(
    config: SweepConfig, candidates: list[Candidate], run: int, progress: Progress
) -> list[Row]:
    caches: set[CacheBits] = {candidate.cache_bits for candidate in candidates}
    workers = {bits: EvaluationWorker(config.evaluate_config(run, bits)) for bits in caches}
    rows: dict[int, Row] = {}
    for index in rotated(range(len(candidates)), run):
        worker = workers[candidates[index].cache_bits]
        rows[index] = _measure(worker, candidates[index], config.steps)
        progress.advance(1)
    return _with_fid_change(candidates, [rows[index] for index in sorted(rows)])


def _measure(worker: EvaluationWorker, candidate: Candidate, steps: int) -> Row:
    name = " ".join(f"{value}" for value in candidate.setting.values())
    point = OperatingPoint(method=name, operating_point=name, steps=steps, gate=candidate.gate)
    row = worker.measure(point).row
    # A run without reuse holds no cache.
    return {key: row[key] for key in FIGURES} | {"cache_mb": row["cache_mb"] or 0.0}


def _with_fid_change(candidates: list[Candidate], rows: list[Row]) -> list[Row]:
    """FID of few samples is far too high, but the same noise shifts it alike: compare by pairs."""
    bare = [row["fid"] for row, one in zip(rows, candidates, strict=True) if one.gate is None]
    reference = bare[0] if bare else None
    return [
        row | {"fid_change": None if reference is None else row["fid"] - reference} for row in rows
    ]


def _reuse_by_arithmetic(
    config: SweepConfig, candidate: Candidate, num_layers: int
) -> dict[str, float]:
    if isinstance(config.grid, AblationGrid):
        return {}
    if candidate.schedule is None:
        return {"reuse_ratio_by_schedule": 0.0, "reuse_ratio_dit_xl": 0.0}
    return {
        "reuse_ratio_by_schedule": schedule_ratio(candidate.schedule, num_layers, config.steps),
        "reuse_ratio_dit_xl": schedule_ratio(candidate.schedule, **DIT_XL),
    }
