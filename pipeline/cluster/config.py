"""Number and resources of a stage's workers, and the limits after which one is given up."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pipeline.flags.bounds import Range, require_name, require_within

MINUTES = 10**6
"""Longest time limit in minutes, two years."""
RANGES = {
    "workers": Range(least=0, most=100_000, usual=2),
    "gpus_per_worker": Range(least=0, most=1024, usual="0.5 or 1"),
    "worker_timeout_minutes": Range(least=0, most=MINUTES, usual=30, is_open=True),
    "unit_timeout_minutes": Range(least=0, most=MINUTES, usual=60, is_open=True),
}
"""Values that the flags may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterFlags:
    """Workers of the stage, on the Ray cluster."""

    workers: int = 0
    """Number of workers; 0 for one on each GPU share, or one on each CPU where there is no GPU."""
    gpus_per_worker: float = 0.0
    """Share of a GPU that a worker gets; 0 for a whole GPU where the cluster has any."""
    accelerator_type: str | None = None
    """Accelerator type that a worker must run on, by Ray's name, such as A100, or A100-80G where
    the nodes are labelled; default: any."""
    worker_timeout_minutes: float | None = None
    """End the job after this time without a worker that is ready. Loading the model counts as not
    ready. Default: wait for as long as a node that can hold a worker is there or may come."""
    unit_timeout_minutes: float = 60.0
    """Kill a worker that takes longer than this over one unit of work, which another worker then
    tries."""

    def __post_init__(self) -> None:
        require_within(self, RANGES)
        require_name(self, "accelerator_type")
        share = self.gpus_per_worker
        if share > 1 and share != int(share):
            raise ValueError(
                "--gpus-per-worker must be a share of one GPU or a whole number. Got "
                f"{share}. Pass --gpus-per-worker 0.5 or 1."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig(ClusterFlags):
    """Workers of a stage, and the number of failures after which a unit of work is given up."""

    max_attempts: int = 5
    """Times that a unit may lose its worker before it is given up."""
    max_errors: int = 2
    """Times that a unit may raise before it is given up, where the stage continues without it."""


def cluster_config(flags: ClusterFlags) -> ClusterConfig:
    """The configuration that a job's flags ask for."""
    return ClusterConfig(**asdict(flags))
