"""One experiment of an MLflow store: applies the records of :mod:`pipeline.tracking.operations`."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from pipeline.errors import InputError
from pipeline.tracking.connection import connect, is_missing, is_taken, patiently, reason_of
from pipeline.tracking.operations import (
    RUN_KEY,
    CreateExperiment,
    CreateRun,
    DescribePolicy,
    EndRun,
    LogArtifact,
    LogDataset,
    LogMetrics,
    LogParams,
    Operation,
    PromotePolicy,
    RegisterPolicy,
    RunOperation,
    SetTags,
    TagExperiment,
    redacted,
)
from pipeline.tracking.registry import describe, promote, register
from pipeline.tracking.uri import sqlite_path

AT_ONCE = 100
"""Most parameters, tags or metrics of one request; MLflow refuses more parameters or tags."""
LONGEST_VALUE = 6000
"""Most characters of a parameter or a tag that MLflow stores."""
LONGEST_RUN_NAME = 250
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._ -]{0,99}")
"""Names of experiments that are names of artifact folders as they are."""
Reader = Callable[[str], bytes]
"""Returns the contents of a file of the output folder by its key."""


class Store:
    """Client of one experiment.

    Args:
        uri: store, as :func:`pipeline.tracking.uri.resolve_tracking_uri` returns it.
        experiment: name of the experiment, which is created if missing.

    Raises:
        InputError: if the store does not answer within 30 s, or the experiment was deleted.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.ids: dict[str, str] = {}
        try:
            self.client = connect(uri)
            self.experiment_id = patiently(lambda: self._find_experiment(experiment))
        except InputError:
            raise
        except Exception as error:
            raise unanswered(uri, error) from error

    def _find_experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                location = artifact_location(self.uri, name)
                return self.client.create_experiment(name, artifact_location=location)
            except Exception as error:
                # Another start may have created it in between.
                found = self.client.get_experiment_by_name(name) if is_taken(error) else None
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise InputError(
                f"--experiment must not be a deleted MLflow experiment. Got {name!r}. Restore it "
                "in MLflow, or name another experiment."
            )
        return found.experiment_id

    def id_of(self, run: str) -> str:
        """Return the id of a run of which the key or the id is given."""
        return self.ids.get(run, run)

    def status_of(self, run_id: str) -> str | None:
        """Return the status of a run, such as RUNNING; None if the store has no run of that id."""
        try:
            return patiently(lambda: self.client.get_run(run_id)).info.status
        except Exception as error:
            if not is_missing(error):
                raise
            return None

    def find(self, key: str) -> str | None:
        """Return the id of the experiment's run with a key; None if there is none."""
        return patiently(lambda: self._find_run(key, self.experiment_id))

    def apply(self, operation: Operation, read: Reader) -> None:
        """Apply a record, once more or for the first time.

        Args:
            read: returns the contents of the files that are uploaded.

        Raises:
            Exception: whatever the store's library raises, within 30 s.
        """
        safe = redacted(operation)
        patiently(lambda: self._apply(safe, read))

    def _apply(self, operation: Operation, read: Reader) -> None:
        match operation:
            case CreateExperiment():
                self.ids[operation.experiment] = self._find_experiment(operation.name)
            case TagExperiment():
                experiment = self.id_of(operation.experiment)
                for name, value in operation.values.items():
                    self.client.set_experiment_tag(experiment, name, self._with_ids(value))
            case _:
                self._apply_to_run(self.id_of(operation.run), operation, read)

    def _apply_to_run(self, run_id: str, operation: RunOperation, read: Reader) -> None:
        match operation:
            case CreateRun():
                self._create(operation)
            case LogParams() | SetTags() | LogMetrics():
                self._log_batch(run_id, operation)
            case LogDataset():
                self._log_dataset(run_id, operation)
            case LogArtifact():
                self._upload(run_id, operation, read(operation.key))
            case RegisterPolicy():
                register(self.client, run_id, operation)
            case DescribePolicy(text=text):
                described = replace(operation, text=self._with_ids(text))
                describe(self.client, run_id, described)
            case PromotePolicy():
                promote(self.client, run_id, operation)
            case EndRun():
                self.client.set_terminated(run_id, operation.status, operation.ended_ms)

    def _create(self, operation: CreateRun) -> None:
        key = operation.run
        experiment = self.experiment_id
        if operation.experiment is not None:
            experiment = self.id_of(operation.experiment)
        tags = {name: self._with_ids(value) for name, value in operation.tags.items()}
        tags[RUN_KEY] = key
        if operation.parent is not None:
            tags["mlflow.parentRunId"] = self.id_of(operation.parent)
        found = self._find_run(key, experiment)
        self.ids[key] = (
            found
            or self.client.create_run(
                experiment,
                start_time=operation.started_ms,
                tags={name: value[:LONGEST_VALUE] for name, value in tags.items()},
                run_name=operation.name[:LONGEST_RUN_NAME],
            ).info.run_id
        )

    def _find_run(self, key: str, experiment: str) -> str | None:
        same = f"tags.`{RUN_KEY}` = '{key}'"
        found = self.client.search_runs([experiment], same, max_results=1)
        return found[0].info.run_id if found else None

    def _with_ids(self, text: str) -> str:
        """Return a text with the ids of the runs and experiments that it names by key."""
        for key, known in self.ids.items():
            text = text.replace(key, known)
        return text

    def _log_batch(self, run_id: str, operation: LogParams | SetTags | LogMetrics) -> None:
        for values in _chunks(operation.values):
            match operation:
                case LogMetrics(step=step):
                    metrics = [Metric(name, value, 0, step) for name, value in values]
                    self.client.log_batch(run_id, metrics=metrics)
                case LogParams():
                    params = [Param(name, str(value)[:LONGEST_VALUE]) for name, value in values]
                    self.client.log_batch(run_id, params=params)
                case SetTags():
                    texts = {name: self._with_ids(str(value)) for name, value in values}
                    tags = [RunTag(name, text[:LONGEST_VALUE]) for name, text in texts.items()]
                    self.client.log_batch(run_id, tags=tags)

    def _log_dataset(self, run_id: str, operation: LogDataset) -> None:
        dataset = Dataset(
            name=operation.name,
            digest=operation.digest,
            source_type="local",
            source=json.dumps({"uri": operation.uri}),
        )
        tag = InputTag("mlflow.data.context", operation.context)
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, [tag])])

    def _upload(self, run_id: str, operation: LogArtifact, contents: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="dqar-") as scratch:
            path = Path(scratch) / operation.key.rpartition("/")[2]
            path.write_bytes(contents)
            self.client.log_artifact(run_id, str(path), operation.folder)


def _chunks(values: Mapping[str, Any]) -> Iterator[list[tuple[str, Any]]]:
    items = list(values.items())
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


def unanswered(uri: str, error: Exception) -> InputError:
    """Return the refusal of a store that gave an error in place of an answer."""
    return InputError(
        f"--tracking-uri must be an MLflow tracking store that answers. Got {uri}: "
        f"{reason_of(error)}. Start its server, or leave the flag out."
    )


def artifact_location(uri: str, experiment: str) -> str | None:
    """Return the URI of an experiment's artifact folder beside an sqlite file; None where the
    server chooses. No name leads out of ``mlartifacts``."""
    if (path := sqlite_path(uri)) is None:
        return None
    digest = hashlib.sha256(experiment.encode()).hexdigest()[:16]
    is_plain = PLAIN_NAME.fullmatch(experiment) is not None
    folder = experiment if is_plain else f"experiment-{digest}"
    return (path.absolute().parent / "mlartifacts" / folder).as_uri()
