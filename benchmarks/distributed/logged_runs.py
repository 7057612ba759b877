"""Contents of a stage's run in MLflow, in a form in which two runs of the stage are equal."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from benchmarks.distributed.mlflow_server import MlflowServer
from benchmarks.distributed.stage_jobs import LIMIT_S, Job

OWN = {"out", "command", "traces"}
"""Parameters that differ between two runs of the same stage."""


def stage_runs(server: MlflowServer, stage: str) -> set[str]:
    """Return the ids of the stage's runs, read past the server."""
    query = "SELECT run_uuid FROM tags WHERE key = 'stage' AND value = ?"
    with closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)) as database:
        return {run_id for (run_id,) in database.execute(query, (stage,))}


def await_run(server: MlflowServer, stage: str, known: set[str], job: Job) -> str:
    """Wait until the stage's new run exists; return its id."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and job.process.is_alive():
        if new := stage_runs(server, stage) - known:
            return new.pop()
        time.sleep(0.02)
    raise RuntimeError(f"The stage {stage} made no run. {job.end()}")


def open_runs(server: MlflowServer) -> int:
    """Return the number of runs of the store that have not ended, read past the server."""
    with closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)) as database:
        return database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()[0]


def logged(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """Return what a run and its children hold, without what differs between two runs."""
    run = client.get_run(run_id)
    within = f"tags.`mlflow.parentRunId` = '{run_id}'"
    children = client.search_runs([run.info.experiment_id], within, max_results=1000)
    return _held(client, run) | {
        "children": sorted((_held(client, child) for child in children), key=json.dumps),
        "policy_versions": len(client.search_model_versions(f"run_id = '{run_id}'")),
    }


def _held(client: MlflowClient, run: Run) -> dict[str, Any]:
    params = {name: value for name, value in run.data.params.items() if name not in OWN}
    points = {
        name: len(client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics
    }
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "params": dict(sorted(params.items())),
        "metric_points": dict(sorted(points.items())),
        "tags": sorted(name for name in run.data.tags if not name.startswith("mlflow.user")),
        "artifacts": sorted(_artifacts(client, run.info.run_id)),
        "datasets": len(inputs),
    }


def _artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    found = []
    for entry in client.list_artifacts(run_id, folder):
        found += _artifacts(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return found
