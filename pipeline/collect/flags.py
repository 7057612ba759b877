"""Flags of ``jobs/collect.py``. Imports nothing heavy, so that ``--help`` is fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.cluster.config import ClusterFlags
from pipeline.exploration.collect_settings import EXPLORATION, UNIT_SIZE, CollectSettings
from pipeline.flags.bounds import (
    GUIDANCE,
    SEEDS,
    STEPS,
    Range,
    require_distinct,
    require_some,
    require_within,
)
from pipeline.models.sampling_choices import Sampler, canonical_sampler, require_sampler
from pipeline.tracking_flags import TrackingFlags

RANGES = {
    "num_trajectories": Range(least=1, most=10**8, usual=512),
    "steps": STEPS,
    "guidance_scale": GUIDANCE,
    "forecast_orders": Range(least=0, most=2, usual="0,1,2"),
    "error_feedback": Range(least=0, most=1, usual="0,0.5"),
    "target_file_mb": Range(least=0, most=10**6, usual=100),
    "seed": SEEDS,
}
"""Values that the flags may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectFlags(CollectSettings):
    """Collect traces: sample under randomised reuse decisions, and log every decision with the
    error that it caused. The same command again resumes."""

    model: str
    """Model to sample: digits (shipped), a diffusers folder, or a Hub id."""
    out: str
    """Folder or storage URI of the dataset, shared by all workers."""
    steps: int | None = None
    """Sampling steps; default: those of the policy that is explored around, or 50."""
    guidance_scale: float | None = None
    """Scale of classifier-free guidance; default: the one of the policy that is explored around, or
    the one that the model recommends."""
    sampler: Sampler | None = None
    """Sampler: ddim, dpm (DPM-Solver++), unipc, deis, or saved (the scheduler of the model's
    folder), with settings such as dpm:solver_order=3,use_karras_sigmas=true; default: the
    one of the policy that is explored around, or ddim."""
    sites: tuple[str, ...] | None = None
    """Parts of the model whose values are reused: attn, or attn,ff, or block for whole blocks, or
    stack for all blocks at once; default: those of the policy that is explored around, or attn."""
    exploration: str = EXPLORATION
    """Exploration designs with their shares of the trajectories, such as paced:3,regular:1. All
    gates of a step compute together in paced (random gaps between the computed steps), regular
    (nearly equal gaps) and near-policy (variations of a policy's schedules). Each step draws again
    for all gates in step-synchronised, for 8 groups of neighbouring gates in layer-blocked, and for
    each gate in independent."""
    explore_around: str | None = None
    """Folder or URI of a policy whose schedules the design near-policy varies, in a further round
    of collection with its own noise samples; default: none."""
    forecast_orders: tuple[int, ...] | None = None
    """Orders of the forecasts that replace a computed value, taken in turns by the trajectories: 0
    for the cached value, 1 or 2 for its extrapolation of that order; default: the one of the policy
    that is explored around, or 0,1,2."""
    error_feedback: tuple[float, ...] | None = None
    """Gains of error feedback, from 0 to 1, taken in turns by the trajectories: the share of the
    change that reuse left out which the next computed step adds; default: the one of the policy
    that is explored around, or 0,0.5."""
    unit_size: int | Literal["auto"] = UNIT_SIZE
    """Trajectories of a unit, the work that is lost when a worker dies; rounded down to a multiple
    of 3, the trajectories that start from the same noise. With auto, a warm-up measures the size
    that takes 80 seconds."""
    target_file_mb: float = 100.0
    """Size in MB that the files of the gates table, nearly all of a dataset, are merged into after
    the collection; 0 leaves one file for each unit. The files of the trajectories table follow
    them."""
    cluster: ClusterFlags = field(default_factory=ClusterFlags)
    """Workers of the stage, on the Ray cluster."""
    tracking: TrackingFlags = field(default_factory=TrackingFlags)
    """MLflow store that the run is logged to."""

    def __post_init__(self) -> None:
        require_within(self, RANGES)
        if self.unit_size != "auto":
            require_within(self, {"unit_size": Range(least=1, most=2**16, usual=UNIT_SIZE)})
        require_some(self, "sites", "forecast_orders", "error_feedback")
        require_distinct(self, "sites")
        require_sampler(self.sampler)

    def plan_fields(self) -> dict[str, Any]:
        """The flags under the names of the fields of the plan; None for a flag that was left out.

        ``batch_size`` has its default where the unit size is to be measured.
        """
        return {
            "num_trajectories": self.num_trajectories,
            "batch_size": UNIT_SIZE if self.unit_size == "auto" else self.unit_size,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "sampler": None if self.sampler is None else canonical_sampler(self.sampler),
            "sites": self.sites,
            "designs": self.exploration,
            "forecast_orders": self.forecast_orders,
            "feedbacks": self.error_feedback,
            "dtype": self.dtype,
            "seed": self.seed,
        }
