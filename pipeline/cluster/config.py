"""How many workers a stage has, what each asks of the cluster, and for how long it is tried."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from pipeline.errors import checked


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """How many workers, and what each asks of the cluster."""

    workers: int = 0
    """Actors; 0 for one a GPU share, or one a CPU where there is no GPU."""
    gpus_per_worker: float = 0.0
    """GPU share of an actor; 0 for a whole GPU where the cluster has any."""
    accelerator_type: str | None = None
    """Ray's accelerator type that an actor must run on, such as A100."""
    max_attempts: int = 5
    """Times that a unit is handed out before its workers' deaths are taken for its own fault."""
    max_errors: int = 2
    """Times that a unit may raise before it is given up, where the others go on without it."""
    wait_minutes: float | None = None
    """For how long to be without any worker that is ready, the loading of its model included. None:
    as long as it takes, unless no node that could hold one is there or may come."""
    unit_minutes: float = 60.0
    """After so long over one unit a worker is taken for hung, and killed. Units are of minutes."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.gpus_per_worker):
            raise ValueError(
                f"gpus_per_worker must be finite. Got {self.gpus_per_worker}. Pass 0.5 or 1."
            )
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise ValueError(
                "gpus_per_worker must be a share of one GPU or a whole number. Got "
                f"{self.gpus_per_worker}. Pass 0.5 or 1."
            )
        if self.workers < 0 or self.gpus_per_worker < 0:
            raise ValueError(
                f"workers and gpus_per_worker must not be negative. Got {self.workers=}, "
                f"{self.gpus_per_worker=}. Leave them out for the defaults."
            )
        if not self.unit_minutes > 0:
            raise ValueError(f"unit_minutes must be above 0. Got {self.unit_minutes}. Pass 60.")
        if self.wait_minutes is not None and not self.wait_minutes > 0:
            raise ValueError(f"wait_minutes must be above 0. Got {self.wait_minutes}. Pass 30.")


def config_of(arguments: argparse.Namespace) -> ClusterConfig:
    """What a job's fleet flags ask for."""
    return checked(
        ClusterConfig,
        workers=arguments.workers,
        gpus_per_worker=arguments.gpus_per_worker,
        accelerator_type=arguments.accelerator_type,
        wait_minutes=arguments.wait_minutes,
        unit_minutes=arguments.unit_minutes,
    )
