"""Number of trajectories in a unit: as the folder's plan has it, or measured by a warm-up.

The work on a unit is lost if its node dies. A unit of :data:`TARGET_S` seconds keeps that loss
small, and is still long against the time that handing out a unit takes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pipeline.cluster.actor_pool import ActorPool
from pipeline.cluster.config import ClusterConfig
from pipeline.collect.quarantine import Diverged
from pipeline.collect.worker import Collector
from pipeline.errors import input_errors
from pipeline.exploration.collect_plan import CollectPlan, Unit
from pipeline.storage.object_store import Storage
from pipeline.traces.commit import refuse_other_contents
from pipeline.traces.document_schemas import check_plan
from pipeline.traces.manifest import read_document

TARGET_S = 80.0
"""Seconds that a unit of a measured size should take."""
PROBE_S = 8.0
"""Seconds that a warm-up batch must take before its time is extrapolated to larger batches."""
MEMORY_SHARE = 0.8
"""Largest share of the GPU's memory that a unit may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUpBatch:
    """Measurement of one batch of a warm-up."""

    size: int
    """Trajectories in the batch."""
    seconds: float
    """Wall-clock time of the batch."""
    memory_share: float = 0.0
    """Largest share of the GPU's memory that the batch held; 0 on a CPU."""
    is_limit: bool = False
    """True if a batch twice as large did not fit into memory."""


def choose_unit_size(
    plan: CollectPlan, storage: Storage, cluster_config: ClusterConfig
) -> CollectPlan:
    """Return the plan with the unit size of its folder or, for a new folder, a measured one.

    Raises:
        InputError: if the folder holds files and no plan, or a plan that does not read.
    """
    found = read_document(storage, "plan.json", check_plan)
    if found is not None:
        planned = found["batch_size"]
        print(
            f"collect: units of {planned} trajectories, as in {storage}/plan.json, which an "
            "earlier run wrote",
            flush=True,
        )
        with input_errors():
            return replace(plan, batch_size=planned)
    refuse_other_contents(storage)
    pool = ActorPool(WarmUp, {"plan": plan}, cluster_config)
    ((_, probes),) = pool.map_strict([plan.num_trajectories])
    size = fit_unit_size(probes, plan, pool.num_workers, gpu_share=min(1.0, pool.ask.gpus or 1.0))
    print(
        f"collect: units of {size} trajectories, chosen after a warm-up batch of "
        f"{probes[-1].size} trajectories took {probes[-1].seconds:.1f} s",
        flush=True,
    )
    return replace(plan, batch_size=size)


def fit_unit_size(
    probes: Sequence[WarmUpBatch], plan: CollectPlan, workers: int, *, gpu_share: float = 1.0
) -> int:
    """Return the largest unit that takes at most :data:`TARGET_S`, fits into memory and leaves no
    worker without a unit, in trajectories.

    The result is a multiple of the trajectories that share a reference sample, and at least one
    such multiple.

    Args:
        probes: batches of the warm-up; the last one is extrapolated linearly.
        workers: workers that the trajectories are divided among.
        gpu_share: share of a GPU that a worker gets; the warm-up had the GPU alone.
    """
    last = probes[-1]
    bounds = [
        TARGET_S * last.size / max(last.seconds, 1e-9),
        math.ceil(plan.num_trajectories / workers),
    ]
    if last.memory_share:
        bounds.append(MEMORY_SHARE * gpu_share * last.size / last.memory_share)
    if last.is_limit:
        bounds.append(gpu_share * last.size)
    masks = plan.masks_per_noise
    return max(1, int(min(bounds)) // masks) * masks


class WarmUp:
    """Worker that measures batches of doubling size and writes nothing."""

    def __init__(self, plan: CollectPlan) -> None:
        self.collector = Collector(plan, root="")
        self.masks = plan.masks_per_noise

    def do(self, most: int) -> list[WarmUpBatch]:
        """Measure batches of doubling size, up to ``most`` trajectories or :data:`PROBE_S`."""
        probes = [self._probe(self.masks)]
        # The first batch pays for lazy initialisation, so its size is measured a second time.
        size = self.masks
        while len(probes) == 1 or (probes[-1].seconds < PROBE_S and size <= most):
            try:
                probes.append(self._probe(size))
            except torch.OutOfMemoryError:
                return [*probes[:-1], replace(probes[-1], is_limit=True)]
            size *= 2
        return probes

    def _probe(self, size: int) -> WarmUpBatch:
        is_on_gpu = self.collector.device == "cuda"
        if is_on_gpu:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        # Divergence does not matter to the time; the collection itself quarantines such a unit.
        with contextlib.suppress(Diverged):
            self.collector.sample(Unit(unit_id="warm-up", index=0, start=0, stop=size))
        seconds = time.perf_counter() - started
        return WarmUpBatch(
            size=size, seconds=seconds, memory_share=_memory_share() if is_on_gpu else 0.0
        )


def _memory_share() -> float:
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return torch.cuda.max_memory_allocated() / total
