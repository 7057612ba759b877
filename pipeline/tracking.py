"""MLflow: parameters, metrics, datasets, artifacts and the model registry.

This is the only module that imports mlflow. Every call goes through one client with explicit run
ids: there is no global active run, and workers log nothing.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError, without_secrets
from pipeline.storage.json_schema import Malformed, parse
from pipeline.storage.object_store import Root, open_storage
from pipeline.storage.output_checks import inside_ray_job

REGISTERED_POLICY = "dqar-policy"
CANDIDATE = "candidate"
"""Alias of the newest trained version of the registered policy."""
LINEAGE = "lineage.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """An open MLflow run."""

    client: MlflowClient
    run_id: str

    def params(self, values: dict[str, Any]) -> None:
        """Log parameters, which MLflow never lets change."""
        entries = [Param(key, str(value)[:6000]) for key, value in values.items()]
        self.client.log_batch(self.run_id, params=entries)

    def metrics(self, values: dict[str, int | float | None], step: int = 0) -> None:
        """Log finite metrics; None, NaN and infinities are left out."""
        entries = [
            Metric(key, float(value), 0, step)
            for key, value in values.items()
            if value is not None and math.isfinite(value)
        ]
        self.client.log_batch(self.run_id, metrics=entries)

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        for key, value in values.items():
            self.client.set_tag(self.run_id, key, value)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or a folder's files."""
        upload = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        upload(self.run_id, str(path), folder)

    def dataset(self, name: str, digest: str, uri: str, context: str) -> None:
        """Log a dataset as an input of the run, identified by a digest of its contents."""
        dataset = Dataset(
            name=name, digest=digest, source_type="local", source=json.dumps({"uri": uri})
        )
        tag = InputTag("mlflow.data.context", context)
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, [tag])])

    def register_policy(self, folder: str) -> str:
        """Register an artifact folder of the run as the newest policy; return its version."""
        try:
            self.client.create_registered_model(REGISTERED_POLICY)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        root = self.client.get_run(self.run_id).info.artifact_uri
        version = self.client.create_model_version(
            REGISTERED_POLICY, f"{root}/{folder}", self.run_id
        ).version
        self.client.set_registered_model_alias(REGISTERED_POLICY, CANDIDATE, version)
        return str(version)


class Tracker:
    """Client of one MLflow tracking store and one experiment in it."""

    def __init__(self, uri: str | None, experiment: str) -> None:
        self.uri = resolve_tracking_uri(uri)
        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        try:
            self.client = MlflowClient(self.uri, self.uri)
            self.experiment_id = self._experiment(experiment)
        except InputError:
            raise
        # A store raises what its own library raises, such as SQLAlchemy's errors.
        except Exception as error:
            reported = without_secrets(f"{self.uri}: {str(error)[:200]}")
            raise InputError(
                f"--tracking-uri must be an MLflow tracking store that answers. Got {reported}. "
                "Start its server, or leave the flag out."
            ) from error

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise InputError(
                f"--experiment must not be a deleted MLflow experiment. Got {name!r}. Restore it "
                "in MLflow, or name another experiment."
            )
        if found is not None:
            return found.experiment_id
        location = None
        if self.uri.startswith("sqlite:///"):
            database = Path(self.uri.removeprefix("sqlite:///")).absolute()
            location = (database.parent / "mlartifacts" / name).as_uri()
        return self.client.create_experiment(name, artifact_location=location)

    def open_pipeline(self, lineage: dict[str, str], name: str) -> str:
        """Return the id of the parent run of all stages of one pipeline.

        The run is created if ``lineage`` names none that this store has.
        """
        try:
            return self.client.get_run(lineage["parent"]).info.run_id
        except (KeyError, MlflowException):
            tags = {"stage": "pipeline"}
            run = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
            self.client.set_terminated(run.info.run_id)
            return run.info.run_id

    @contextmanager
    def run(
        self, name: str, *, stage: str, parent: str, tags: dict[str, str] | None = None
    ) -> Iterator[Run]:
        """Open a child run, which ends as finished, or as failed when the block raises."""
        tags = {"stage": stage, "mlflow.parentRunId": parent, **(tags or {})}
        run_id = self.client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id
        status = "FAILED"
        try:
            yield Run(client=self.client, run_id=run_id)
            status = "FINISHED"
        finally:
            self.client.set_terminated(run_id, status)


def resolve_tracking_uri(flag: str | None) -> str:
    """Return the flag, else ``MLFLOW_TRACKING_URI``, else sqlite in the working folder.

    Raises:
        InputError: inside a Ray job, if the store would be lost with the job's working folder.
    """
    uri = flag or os.environ.get("MLFLOW_TRACKING_URI")
    is_relative = uri is None or (
        uri.startswith("sqlite:///") and not uri.startswith("sqlite:////")
    )
    if inside_ray_job() and is_relative:
        raise InputError(
            "--tracking-uri must be given inside a Ray job, whose working folder is temporary, and "
            f"not relative to that folder. Got {uri}. Pass http://HOST:5000 or "
            "sqlite:////ABSOLUTE/mlflow.db, or set MLFLOW_TRACKING_URI."
        )
    return uri or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def call_store(uri: str) -> str | None:
    """Make one API call without retries; return the text of its error, or None."""
    # MLflow's seven retries take minutes. It reads these variables at each request.
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    try:
        MlflowClient(uri, uri).search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        return str(error)
    return None


def read_lineage(root: Root) -> dict[str, str]:
    """Read the MLflow run ids of a traces folder, by stage; empty if it has none that read."""
    try:
        found = parse(open_storage(root).read(LINEAGE) or b"{}")
    except Malformed:
        return {}
    return {stage: run_id for stage, run_id in found.items() if isinstance(run_id, str)}


def write_lineage(root: Root, lineage: dict[str, str]) -> None:
    """Write the MLflow run ids into a traces folder, where the next stage reads them."""
    open_storage(root).write(LINEAGE, (json.dumps(lineage, indent=2) + "\n").encode())


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested fields to dotted names. Example: ``{"a": {"b": 1}}`` gives ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
