"""Collection under tracking: parameters, throughput, the dataset and its digest."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from pipeline.collect import collect
from pipeline.commit import claim_folder, local_root
from pipeline.fleet import FleetConfig
from pipeline.plan import CollectPlan
from pipeline.tracking import Tracker, read_lineage, write_lineage


def collect_traces(
    plan: CollectPlan, out: str, fleet_config: FleetConfig, tracker: Tracker
) -> dict[str, Any]:
    """:func:`collect` under tracking: parameters, throughput, the dataset and its digest."""
    root = local_root(out)
    claim_folder(root, plan)
    parent = tracker.open_pipeline(read_lineage(root), f"pipeline {plan.plan_hash[:8]}")
    with tracker.run(f"collect {plan.model}", stage="collect", parent=parent) as run:
        run.params(asdict(plan) | {"plan_hash": plan.plan_hash, "out": out})
        started = time.perf_counter()
        manifest = collect(plan, root, fleet_config)
        seconds = time.perf_counter() - started
        run.metrics(
            {
                "collect/trajectories": manifest["trajectories"],
                "collect/gates": manifest["gates"],
                "collect/seconds": seconds,
                "collect/bytes": sum(
                    entry["bytes"] for unit in manifest["units"] for entry in unit["files"].values()
                ),
            }
        )
        run.tags({"decision_digest": manifest["decision_digest"]})
        run.dataset("traces", manifest["data_digest"], root.absolute().as_uri(), "collection")
        write_lineage(root, {"parent": parent, "collect": run.run_id})
    print(
        f"collect: {manifest['trajectories']} trajectories, {manifest['gates']} gates in {root}, "
        f"decisions {manifest['decision_digest']}",
        flush=True,
    )
    return manifest
