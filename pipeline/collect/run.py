"""Collection under the folder's lease, with an MLflow run: sizes, seconds, the dataset's digest."""

from __future__ import annotations

import time
from typing import Any

from pipeline.cluster.config import ClusterConfig
from pipeline.collect.driver import collect
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.storage.object_store import Root, Storage, open_storage
from pipeline.traces.commit import claim_output
from pipeline.traces.compaction import finalize
from pipeline.traces.lease import acquire_lease
from pipeline.traces.shards import parts_of
from pipeline.tracking import Run, Tracker, read_lineage, write_lineage


def collect_traces(
    plan: CollectPlan,
    out: Root,
    cluster_config: ClusterConfig,
    tracker: Tracker,
    target_file_mb: float,
    policy_lineage: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Collect under the folder's lease and an MLflow run, compact the shards as
    :func:`pipeline.traces.compaction.finalize` does, and return the manifest.

    Args:
        policy_lineage: MLflow runs that made the policy to explore around, by stage. The
            collection then belongs to the same pipeline as these runs.

    Raises:
        InputError: as :func:`pipeline.collect.driver.collect`, or if another driver is alive.
        IncompleteError: if units were given up.
    """
    root = open_storage(out)
    claim_output(root, plan)
    lineage = read_lineage(root) or policy_lineage or {}
    tags = {f"lineage.{stage}": run_id for stage, run_id in (policy_lineage or {}).items()}
    with acquire_lease(root) as lease:
        parent = tracker.open_pipeline(lineage, f"pipeline {plan.plan_hash[:8]}")
        name = f"collect {plan.model}"
        with tracker.run(name, stage="collect", parent=parent, tags=tags) as run:
            run.params(plan.fields | {"plan_hash": plan.plan_hash, "out": str(out)})
            started = time.perf_counter()
            manifest = collect(plan, root, cluster_config, check_not_fenced=lease.check_not_fenced)
            seconds = time.perf_counter() - started
            manifest = finalize(root, manifest, target_file_mb, lease)
            write_lineage(root, {"parent": parent, "collect": run.run_id})
            _log(run, manifest, seconds, root)
    print(
        f"collect: {root} holds {manifest['trajectories']} trajectories with {manifest['gates']} "
        f"reuse decisions; digest of the decisions {manifest['decision_digest']}",
        flush=True,
    )
    return manifest


def _log(run: Run, manifest: dict[str, Any], seconds: float, root: Storage) -> None:
    sizes = [file["bytes"] for part in parts_of(manifest) for file in part["files"].values()]
    run.metrics(
        {
            "collect/trajectories": manifest["trajectories"],
            "collect/gates": manifest["gates"],
            "collect/seconds": seconds,
            "collect/bytes": sum(sizes),
        }
    )
    run.tags({"decision_digest": manifest["decision_digest"]})
    run.dataset("traces", manifest["data_digest"], root.address, "collection")
