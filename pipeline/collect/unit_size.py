"""How many trajectories a unit has: given, as planned before, or measured by a warm-up.

A unit is what dies with a node: long enough that handing it out costs nothing, short enough that
losing it costs little.
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
"""Seconds that a unit of a measured size is to take."""
PROBE_S = 8.0
"""A batch that took so long tells enough of larger ones."""
MEMORY_SHARE = 0.8
"""Of the GPU's memory that a unit may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUpBatch:
    """One batch of a warm-up."""

    size: int
    """Trajectories."""
    seconds: float
    memory_share: float = 0.0
    """Of the GPU's memory that it took; 0 on a CPU."""
    is_limit: bool = False
    """Whether a batch twice as large did not fit into memory."""


def choose_unit_size(
    plan: CollectPlan, storage: Storage, cluster_config: ClusterConfig
) -> CollectPlan:
    """The plan with a unit size of its folder's own or, for a new folder, a measured one.

    Raises:
        Refusal: if the folder holds something that is no collection.
    """
    found = read_document(storage, "plan.json", check_plan)
    if found is not None:
        planned = found["batch_size"]
        print(f"collect: units of {planned} trajectories, as in {storage}/plan.json", flush=True)
        with input_errors():
            return replace(plan, batch_size=planned)
    refuse_other_contents(storage)
    pool = ActorPool(WarmUp, {"plan": plan}, cluster_config)
    ((_, probes),) = pool.map_strict([plan.num_trajectories])
    size = fit_unit_size(probes, plan, pool.num_workers, gpu_share=min(1.0, pool.ask.gpus or 1.0))
    print(
        f"collect: units of {size} trajectories; a batch of {probes[-1].size} took "
        f"{probes[-1].seconds:.1f} s",
        flush=True,
    )
    return replace(plan, batch_size=size)


def fit_unit_size(
    probes: Sequence[WarmUpBatch], plan: CollectPlan, workers: int, *, gpu_share: float = 1.0
) -> int:
    """Trajectories of a unit: so many as take :data:`TARGET_S`, as fit into memory, and as leave
    no worker without a unit; a multiple of those that share a twin.

    Args:
        gpu_share: of a GPU, which others share with a worker; the warm-up had it alone.
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
    """A worker that samples larger and larger batches and writes nothing."""

    def __init__(self, plan: CollectPlan) -> None:
        self.collector = Collector(plan, root="")
        self.masks = plan.masks_per_noise

    def do(self, most: int) -> list[WarmUpBatch]:
        """Probes of doubling batches, of at most ``most`` trajectories or a few seconds."""
        probes = [self._probe(self.masks)]
        # The first one paid for what is set up lazily, so its size is measured again.
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
        # Only its time is asked for; a unit that diverges is put aside when it is collected.
        with contextlib.suppress(Diverged):
            self.collector.sample(Unit(unit_id="warm-up", index=0, start=0, stop=size))
        seconds = time.perf_counter() - started
        return WarmUpBatch(
            size=size, seconds=seconds, memory_share=_memory_share() if is_on_gpu else 0.0
        )


def _memory_share() -> float:
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return torch.cuda.max_memory_allocated() / total
