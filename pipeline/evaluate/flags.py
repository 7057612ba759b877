"""Flags of ``jobs/evaluate.py``. Imports nothing heavy, so that ``--help`` is fast."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.cluster.config import ClusterFlags
from pipeline.flags.bounds import (
    BATCH,
    GUIDANCE,
    SEEDS,
    STEPS,
    Range,
    require_distinct,
    require_some,
    require_within,
)
from pipeline.methods.defaults import DEFAULT_METHODS, SweepDensity
from pipeline.models.sampling_choices import Dtype, Sampler, require_sampler
from pipeline.tracking_flags import TrackingFlags

SAMPLES_PER_TASK = 1024
"""Samples of an operating point that one worker measures at a time."""
TUNING_EVALUATIONS = 50_000
"""Guided model evaluations that each method may spend on its choice of operating points."""
RANGES = {
    "num_samples": Range(least=1, most=10**7, usual=64),
    "batch_size": BATCH,
    "steps": STEPS,
    "guidance_scale": GUIDANCE,
    "samples_per_task": Range(least=1, most=10**7, usual=SAMPLES_PER_TASK),
    "tuning_evaluations": Range(least=0, most=10**12, usual=TUNING_EVALUATIONS),
    "error_budget": Range(least=0, most=1000, usual=0.01, is_open=True),
    "seed": SEEDS,
    "solution_steps": STEPS,
}
"""Values that the flags may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateSettings:
    """Settings that the flags of an evaluation and its configuration share."""

    num_samples: int = 64
    """Number of samples that each operating point is measured on; no other stage has seen their
    noise."""
    batch_size: int = 32
    """Samples of a batch."""
    dtype: Dtype = "fp32"
    """Floating-point format of the model's arithmetic."""
    seed: int = 0
    """Random seed of the noise samples."""
    solution_steps: int | None = None
    """Steps of a solution of the same noise without reuse, such as 1000; each row then has its
    distance to the solution too. By DDIM, or by the model's own scheduler where DDIM cannot take
    over its noise schedule. Default: no solution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateFlags(EvaluateSettings):
    """Compare reuse methods on the same noise samples: error, image quality, cost and speed. The
    --ablations of the DQAR paper's evaluate.py are jobs/sweep.py ablations."""

    model: str
    """Model to sample: digits (shipped), a diffusers folder, or a Hub id."""
    out: str
    """Folder or URI of the results to write."""
    policy: list[str] = field(default_factory=list)
    """Folder or URI of a policy that jobs/train.py wrote; repeated as NAME=FOLDER to compare
    several policies."""
    methods: tuple[str, ...] = DEFAULT_METHODS
    """Methods to compare: no reuse (baseline), fewer steps without reuse (fewer-steps), reuse at
    regular intervals of the cached value (interval) or of its forecast (interval-forecast2), the
    DQAR paper's layer schedule (linear) and its thresholds (threshold), and the policies (learned).
    There are also threshold-tuned (thresholds chosen on calibration samples), interval-forecast1,
    smoothcache and smoothcache-tied (schedules from calibration errors), router
    (Learning-to-Cache), spaced (the best of some spacing rules), one-stretch (a minimax path over
    stretches, after LeMiCa), budget-search (annealing on the final error, after BudCache),
    fewer-steps-dpmsolver, and solvers and solvers-all (DPM-Solver++, UniPC and DEIS alone: the best
    at each number of steps, or all)."""
    steps: int | None = None
    """Sampling steps; default: those of the first policy, or 50."""
    guidance_scale: float | None = None
    """Scale of classifier-free guidance; default: the one of the first policy, or the one that the
    model recommends."""
    sampler: Sampler | None = None
    """Sampler: ddim, dpm (DPM-Solver++), unipc, deis, or saved (the scheduler of the model's
    folder), with settings such as dpm:solver_order=3,use_karras_sigmas=true; default: the
    one of the first policy, or ddim."""
    sites: tuple[str, ...] | None = None
    """Parts of the model whose values are reused: attn, or attn,ff, or block for whole blocks, or
    stack for all blocks at once; default: those of the first policy, or attn."""
    samples_per_task: int = SAMPLES_PER_TASK
    """Samples of an operating point that one worker measures at a time, rounded up to whole
    batches."""
    error_budget: float | None = None
    """Largest mean error of each policy's additional operating point: the point with the most reuse
    whose relative L2 error of the final latents stays within this budget on calibration noise
    samples, such as 0.01; default: no such point."""
    sweep_density: SweepDensity = "fine"
    """Number of operating points at which each method is measured: coarse takes about half of
    fine's."""
    tuning_evaluations: int = TUNING_EVALUATIONS
    """Guided model evaluations that each method may spend to choose all of its operating points:
    one step of one sample is one; reference samples and a policy's exploration are included."""
    config: str | None = None
    """YAML file with the settings of the DQAR paper's experiments, such as
    configs/paper_evaluation.yaml; default: none."""
    cluster: ClusterFlags = field(default_factory=ClusterFlags)
    """Workers of the stage, on the Ray cluster."""
    tracking: TrackingFlags = field(default_factory=TrackingFlags)
    """MLflow store that the run is logged to."""

    def __post_init__(self) -> None:
        require_within(self, RANGES)
        require_some(self, "methods", "sites")
        require_distinct(self, "methods", "sites")
        require_sampler(self.sampler)
