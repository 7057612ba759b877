"""The tracking of one command: runs that are logged at once, or kept while MLflow is away."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from pipeline.errors import IncompleteError, InputError
from pipeline.storage.object_store import Root, open_storage
from pipeline.tracking.connection import may_pass, reason_of
from pipeline.tracking.open_run import OpenRunNote
from pipeline.tracking.operations import (
    CreateExperiment,
    CreateRun,
    EndRun,
    LogArtifact,
    Operation,
    Status,
)
from pipeline.tracking.pending import FILES, FORMAT, Pending, PendingHeader, claim_of
from pipeline.tracking.replay import StageFlags, log_pending
from pipeline.tracking.run import Run
from pipeline.tracking.store import Store, unanswered
from pipeline.tracking.uri import resolve_tracking_uri


class Tracker:
    """Runs of one command in one experiment of an MLflow store.

    The store must answer when the tracker and the stage's run are made. From the first call on that
    fails, everything is kept, and :meth:`settle` tries once more and writes what is left.

    Args:
        uri: store; None takes ``MLFLOW_TRACKING_URI``, else sqlite in the working folder.
        experiment: name of the experiment.
        out: output folder, where records are kept that MLflow cannot take; None for none, where
            the end of the run raises in place of it.
        claim: digest of the command's settings (:func:`pipeline.tracking.pending.claim_of`).

    Raises:
        InputError: if the store does not answer, or the experiment was deleted.
    """

    def __init__(
        self, uri: str | None, experiment: str, out: Root | None = None, claim: str = ""
    ) -> None:
        self.uri = resolve_tracking_uri(uri)
        self.experiment_name = experiment
        self.storage = None if out is None else open_storage(out)
        self.claim = claim
        self._store = Store(self.uri, experiment)
        self.client, self.experiment_id = self._store.client, self._store.experiment_id
        self._files: dict[str, Path | bytes] = {}
        self._kept: list[Operation] = []
        self._failure: Exception | None = None
        self._stage_run = ""

    @classmethod
    def of(cls, flags: StageFlags) -> Tracker:
        """Return the tracker of a stage's flags."""
        tracking = flags.tracking
        return cls(tracking.tracking_uri, tracking.experiment, flags.out, claim_of(flags))

    def open_pipeline(self, lineage: dict[str, str], name: str) -> str:
        """Return the id of the parent run of all stages of one pipeline.

        The run is created if ``lineage`` names none that this store has.

        Raises:
            InputError: if the store does not answer.
        """
        with self._answering():
            if "parent" in lineage and self._store.status_of(lineage["parent"]):
                return lineage["parent"]
        self._end_abandoned_runs()
        key = self._note.key_of("pipeline")
        with self._answering():
            self._create(key, name, None, {"stage": "pipeline"})
            self._store.apply(_end_of(key, "FINISHED"), self._read)
        return self._store.id_of(key)

    @contextmanager
    def run(
        self, name: str, *, stage: str, parent: str, tags: dict[str, str] | None = None
    ) -> Iterator[Run]:
        """Open a stage's run, which ends as finished, or as failed when the block raises.

        Raises:
            InputError: if the store does not answer at the begin; nothing was done then.
        """
        self._end_abandoned_runs()
        key = self._note.key_of("stage")
        with self._answering():
            self._create(key, name, parent, {"stage": stage, **(tags or {})})
        self._stage_run = self._store.id_of(key)
        self._note.begin(self._stage_run)
        is_done = False
        try:
            with self._ended(key):
                yield self._run(key)
            is_done = True
        finally:
            # A run that MLflow still takes for running is ended by the next start.
            if is_done or self._failure is None:
                self._note.remove()

    @contextmanager
    def child(
        self, name: str, *, stage: str, parent: Run, tags: dict[str, str] | None = None
    ) -> Iterator[Run]:
        """Open a run within a stage's run, which may be kept like all that the stage logs."""
        key = uuid.uuid4().hex
        self.log(_creation(key, name, parent.key, {"stage": stage, **(tags or {})}))
        with self._ended(key):
            yield self._run(key)

    def experiment(self, name: str) -> str:
        """Create an experiment beside that of the stages, and return its key."""
        key = uuid.uuid4().hex
        self.log(CreateExperiment(experiment=key, name=name))
        return key

    @contextmanager
    def top_run(
        self, name: str, *, experiment: str, tags: dict[str, str] | None = None
    ) -> Iterator[Run]:
        """Open a run without a parent in an experiment of :meth:`experiment`: MLflow's charts show
        no runs within runs."""
        key = uuid.uuid4().hex
        self.log(_creation(key, name, None, tags or {}, experiment))
        with self._ended(key):
            yield self._run(key)

    def id_of(self, key: str) -> str:
        """Return MLflow's id of a run or an experiment, or the key while there is none."""
        return self._store.id_of(key)

    def settle(self) -> None:
        """Log what was kept, once more; call this once the command's output is whole.

        Raises:
            IncompleteError: if MLflow is still away. The records are in the output folder.
        """
        if self._failure is None:
            return
        assert self.storage is not None
        pending = self._pending()
        pending.write(self.storage)
        try:
            log_pending(self._store, self.storage, pending)
        except Exception as error:
            raise unlogged(str(self.storage), error) from None
        print(f"MLflow was away and is back: {self.storage} is logged", flush=True)

    def log(self, operation: Operation) -> None:
        """Apply a record, or keep it from the first failure on."""
        if self._failure is None:
            try:
                self._store.apply(operation, self._read)
            # The output of hours of work must not depend on any error of the store.
            except Exception as error:
                self._fail(error)
        if self._failure is not None:
            self._kept.append(operation)

    def _fail(self, error: Exception) -> None:
        if self.storage is None:
            raise IncompleteError(
                "MLflow must answer until the run has ended. Got: "
                f"{reason_of(error)}. Run it again."
            ) from error
        self._failure = error
        print(
            f"WARNING: MLflow does not answer: {reason_of(error)}. The work goes on, and what is "
            f"to be logged is kept in {self.storage}",
            file=sys.stderr,
            flush=True,
        )

    def _run(self, key: str) -> Run:
        return Run(key=key, run_id=self._store.id_of(key), log=self.log, keep=self._keep)

    def _keep(self, key: str, path: Path) -> None:
        # Files apart from the output are gone when the records are applied later.
        self._files[key] = path.read_bytes() if key.startswith(f"{FILES}/") else path

    def _read(self, key: str) -> bytes:
        file = self._files[key]
        return file if isinstance(file, bytes) else file.read_bytes()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Refuse a store that fails before the work."""
        try:
            yield
        except Exception as error:
            raise unanswered(self.uri, error) from error

    def _create(self, key: str, name: str, parent: str | None, tags: dict[str, str]) -> None:
        self._store.apply(_creation(key, name, parent, tags), self._read)

    @contextmanager
    def _ended(self, key: str) -> Iterator[None]:
        status: Status = "FAILED"
        try:
            yield
            status = "FINISHED"
        finally:
            self.log(_end_of(key, status))

    def _pending(self) -> Pending:
        artifacts = {one.key for one in self._kept if isinstance(one, LogArtifact)}
        contents = {key: self._read(key) for key in artifacts if key.startswith(f"{FILES}/")}
        header = PendingHeader(
            format=FORMAT,
            claim=self.claim,
            run=self._stage_run,
            experiment=self.experiment_name,
            ids=dict(self._store.ids),
            files=sorted(contents),
        )
        return Pending(header=header, operations=tuple(self._kept), contents=contents)

    @cached_property
    def _note(self) -> OpenRunNote:
        # Read at the first use: a collection holds its lease by then.
        return OpenRunNote(self.storage, self.claim)

    def _end_abandoned_runs(self) -> None:
        """Mark the runs of a command that was killed, which would stay RUNNING for ever."""
        while self._note.abandoned:
            name = self._note.abandoned[-1]
            try:
                run_id = self._store.find(name) or name
                if self._store.status_of(run_id) == "RUNNING":
                    self._store.apply(_end_of(run_id, "KILLED"), self._read)
            except Exception as error:
                # A run that was deleted, or a name that no run can have, is left alone.
                if may_pass(error):
                    raise unanswered(self.uri, error) from error
            self._note.abandoned.pop()


def unlogged(out: str, error: Exception) -> IncompleteError:
    """Return the one line for an output that is whole and not logged."""
    if isinstance(error, InputError):
        return IncompleteError(f"{out} is whole, but not logged to MLflow. {error}")
    return IncompleteError(
        f"{out} is whole, but not logged to MLflow: {reason_of(error)}. Run the same command "
        "again, or with --resume-tracking, once MLflow answers: it logs what is left and does no "
        "work."
    )


def _creation(
    key: str, name: str, parent: str | None, tags: dict[str, str], experiment: str | None = None
) -> CreateRun:
    return CreateRun(
        run=key,
        name=name,
        parent=parent,
        tags=tags,
        started_ms=_now_ms(),
        experiment=experiment,
    )


def _end_of(key: str, status: Status) -> EndRun:
    return EndRun(run=key, status=status, ended_ms=_now_ms())


def _now_ms() -> int:
    return int(time.time() * 1000)
