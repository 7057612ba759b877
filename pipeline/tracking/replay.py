"""Logging of what an earlier command kept while MLflow was away."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from mlflow.exceptions import MlflowException

from pipeline.errors import IncompleteError, InputError
from pipeline.storage.local_folder import LocalFolder
from pipeline.storage.object_store import Storage, open_storage
from pipeline.tracking.connection import connect, may_pass, reason_of
from pipeline.tracking.pending import Pending, claim_of, read_pending
from pipeline.tracking.store import Store, unanswered
from pipeline.tracking.uri import resolve_tracking_uri, sqlite_path
from pipeline.tracking_flags import TrackingFlags


@runtime_checkable
class StageFlags(Protocol):
    """Flags of a stage that logs to MLflow."""

    @property
    def out(self) -> str: ...
    @property
    def tracking(self) -> TrackingFlags: ...


def settle_earlier(flags: StageFlags, complete: str) -> bool:
    """Log what an earlier command into the same folder could not log. Nothing is written if there
    is nothing to log.

    Args:
        complete: name of the file that marks the output folder as complete.

    Returns:
        True if there is nothing more to do: the same command had done its work, or
        ``--resume-tracking`` was given.

    Raises:
        InputError: if the store cannot be used or does not answer, if the records are of another
            command, or with ``--resume-tracking`` if the folder holds no output.
        IncompleteError: if MLflow is still away.
    """
    storage = open_storage(flags.out)
    is_resuming = flags.tracking.resume_tracking
    pending = _find(storage, is_resuming)
    if pending is None:
        if is_resuming:
            _say_nothing_is_left(storage, complete)
        else:
            refuse_silent(resolve_tracking_uri(flags.tracking.tracking_uri))
        return is_resuming
    if not is_resuming and pending.header.claim != claim_of(flags):
        raise InputError(
            "--out must not hold the output of other settings that is still to be logged to "
            f"MLflow. Got {storage}. Log it with --resume-tracking, or name another --out."
        )
    _log(pending, storage, flags.tracking)
    return True


def _find(storage: Storage, is_resuming: bool) -> Pending | None:
    try:
        return read_pending(storage)
    except InputError:
        # Checks of the output folder say more about a path that cannot be read.
        if is_resuming or not isinstance(storage, LocalFolder) or storage.path.is_dir():
            raise
        return None


def _say_nothing_is_left(storage: Storage, complete: str) -> None:
    if storage.size(complete) is None:
        raise InputError(
            f"--resume-tracking must be given with the --out of an earlier command. Got {storage}, "
            f"which has no {complete}. Correct --out, or leave --resume-tracking out."
        )
    print(f"{storage} has nothing left to log to MLflow", flush=True)


def _log(pending: Pending, storage: Storage, tracking: TrackingFlags) -> None:
    uri = resolve_tracking_uri(tracking.tracking_uri)
    try:
        store = Store(uri, pending.header.experiment)
        refuse_another_store(store, pending)
        log_pending(store, storage, pending)
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, MlflowException) and not may_pass(error):
            raise InputError(
                f"{storage} must be loggable to the MLflow run in which it began. Got: "
                f"{reason_of(error)}. Restore the run or experiment in MLflow, or name another "
                "--out to do the work again."
            ) from None
        raise IncompleteError(
            f"{storage} is whole, but still not logged to MLflow: {reason_of(error)}. Run the same "
            "command again once MLflow answers."
        ) from None
    print(
        f"{storage} is logged to MLflow; its work was done before, with the inputs of that time. "
        "The same command once more would do it again",
        flush=True,
    )


def refuse_silent(uri: str) -> None:
    """Refuse, within seconds and before any work, a server that does not answer. Nothing is
    written, and an sqlite file is not looked at."""
    if sqlite_path(uri) is None:
        try:
            connect(uri)
        except Exception as error:
            raise unanswered(uri, error) from error


def refuse_another_store(store: Store, pending: Pending) -> None:
    """Refuse a store that does not have the run that the records belong to.

    Raises:
        InputError: if there is no such run.
    """
    if store.status_of(pending.header.run) is None:
        raise InputError(
            "--tracking-uri must be the MLflow store in which the run began. Got "
            f"{store.uri}, which has no run {pending.header.run[:40]!r}. Pass the URI of the first "
            "command."
        )


def log_pending(store: Store, storage: Storage, pending: Pending) -> None:
    """Apply records in order, then delete them. At a failure those that are left are kept.

    Raises:
        Exception: whatever the store's library raises.
    """
    store.ids |= pending.header.ids

    def read(key: str) -> bytes:
        if (contents := storage.read(key)) is None:
            raise InputError(
                f"{storage}/{key} must exist to be logged to MLflow. Got no such file. Name "
                "another --out to do the work again."
            )
        return contents

    for index, operation in enumerate(pending.operations):
        try:
            store.apply(operation, read)
        except Exception:
            pending.after(index, store.ids).write(storage)
            raise
    pending.remove(storage)
