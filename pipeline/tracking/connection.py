"""Connections to an MLflow store that end within seconds: bounded requests and bounded retries."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import OperationalError

from pipeline.redaction import without_secrets
from pipeline.tracking.uri import sqlite_path

T = TypeVar("T")

PATIENCE_S = 15.0
"""Seconds after which a call that failed is not tried again."""
REQUEST_S = 15
"""Longest wait for one answer, in seconds, so that a call fails within 30 s. A value of
``MLFLOW_HTTP_REQUEST_TIMEOUT`` in the environment has precedence."""
PROBE_S = 10
"""Longest wait for the answer to the first call, in seconds."""
PAUSE_S = 1.0
"""Seconds between two tries of a call."""
TRANSIENT = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}
"""MLflow's error codes of failures that may pass; a request without an answer has the first."""
MLFLOW_TABLES = {"experiments", "runs", "metrics", "params", "tags", "alembic_version"}
SYSTEM_REASON = re.compile(r"(?<=\] )[A-Z][a-z][A-Za-z ]+(?=['\")])|Read timed out|No space left")
"""Reason within the texts of urllib3, as in ``[Errno 111] Connection refused')``."""
START_TRIES = 5
"""Tries to create the tables of a database that another program may be creating too."""


@contextmanager
def bounded_requests(seconds: int = REQUEST_S) -> Iterator[None]:
    """Bound the requests of MLflow's client in a block, and keep it from printing its address.

    MLflow reads these variables at each request. Its seven retries take six minutes, so that
    :func:`patiently` retries in their place.
    """
    changes = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", str(seconds)),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def patiently(call: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """Return the result of a call, which is repeated for some seconds while it fails in a way that
    may pass. The call must have the same effect once and twice."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with bounded_requests():
                return call()
        except Exception as error:
            if not may_pass(error) or time.monotonic() >= deadline:
                raise
        time.sleep(PAUSE_S)


def may_pass(error: Exception) -> bool:
    """Return True for a failure that the same call may not have a little later."""
    if isinstance(error, MlflowException):
        return error.error_code in TRANSIENT
    # A store raises what its own library raises.
    return isinstance(error, RequestException | OperationalError)


def is_missing(error: Exception) -> bool:
    """Return True if a store says that it has no such run, version or name."""
    return isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST"


def is_taken(error: Exception) -> bool:
    """Return True if a store says that a name exists already."""
    return isinstance(error, MlflowException) and error.error_code == "RESOURCE_ALREADY_EXISTS"


def reason_of(error: Exception) -> str:
    """Return an error in one line: the reason of the network or the disk if there is one, else the
    begin of the text, without secrets."""
    text = " ".join(without_secrets(str(error)).split()) or type(error).__name__
    found = SYSTEM_REASON.search(text)
    return found.group().strip() if found else text[:200]


def connect(uri: str) -> MlflowClient:
    """Return a client of a store, after a first call without retries.

    The tables of a new sqlite file are created by one process at a time.

    Raises:
        Exception: whatever the store's library raises, within 30 s.
    """
    for noisy in ("alembic", "mlflow", "urllib3.connectionpool"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with bounded_requests(PROBE_S):
        if (path := sqlite_path(uri)) is not None:
            _refuse_unusable(path)
            with _alone(path):
                client = _started(uri)
        else:
            client = MlflowClient(uri, uri)
        client.search_experiments(max_results=1)
    return client


def call_store(uri: str) -> str | None:
    """Make one API call without retries; return the text of its error, or None."""
    try:
        connect(uri)
    # Every error of the store is an answer here.
    except Exception as error:
        return without_secrets(str(error))
    return None


def _refuse_unusable(path: Path) -> None:
    """Raise an error for a file that is no MLflow database; MLflow would retry for two minutes, or
    add its tables to another program's database."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=PROBE_S)) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        database.execute("PRAGMA user_version").fetchone()
    names = {name for (name,) in found}
    if names and names.isdisjoint(MLFLOW_TABLES):
        raise sqlite3.DatabaseError("the database of another program, without MLflow's tables")
    if not os.access(path, os.W_OK):
        raise PermissionError(f"{path} cannot be written to by this user")


def _started(uri: str) -> MlflowClient:
    """Return a client; creation of the tables is repeated, since a server or another machine, which
    the lock does not hold off, may create them at the same time."""
    for attempt in range(1, START_TRIES + 1):
        try:
            return MlflowClient(uri, uri)
        except Exception:
            if attempt == START_TRIES:
                raise
            time.sleep(0.2 * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock on this machine that belongs to a database file.

    The lock is a file apart: closing a lock on the database would release those of sqlite.
    """
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"dqar-{os.getuid()}-{name}.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
