"""URI of the MLflow store: which are served, and which a Ray job would lose."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import InputError
from pipeline.storage.output_checks import inside_ray_job

DATABASES = ("postgresql", "mysql", "mssql")
SERVED = "http://HOST:5000, https://HOST, sqlite:////ABSOLUTE/mlflow.db or a database server"
SQLITE = "sqlite:///"


def resolve_tracking_uri(flag: str | None) -> str:
    """Return the flag, else ``MLFLOW_TRACKING_URI``, else sqlite in the working folder.

    A relative path of sqlite becomes absolute. Nothing is contacted.

    Raises:
        InputError: if MLflow would take the URI for something else, such as a folder or a database
            in memory, or if the store would be lost with a Ray job's working folder.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or None if flag is None else flag
    if uri is None:
        _refuse_lost(uri)
        return f"{SQLITE}{Path.cwd() / 'mlflow.db'}"
    scheme = re.match(r"(?:([a-z][a-z0-9]*)(?:\+[a-z0-9]+)?:)?", uri)
    name = scheme[1] if scheme else None
    if any(character.isspace() or not character.isprintable() for character in uri):
        raise _refusal(uri, "must hold neither blanks nor control characters")
    if name == "sqlite":
        return _checked_sqlite(uri)
    if name in ("http", "https"):
        return _checked_server(uri)
    if name in DATABASES and "://" in uri:
        return uri
    raise _refusal(uri, f"must be {SERVED}")


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an sqlite store; None for a store of another kind."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def _checked_sqlite(uri: str) -> str:
    path = sqlite_path(uri)
    if path is None or not path.name or "?" in uri or ":memory:" in uri or uri.endswith("/"):
        raise _refusal(uri, "must name a file: sqlite:////ABSOLUTE/mlflow.db, without a query,")
    if path.is_absolute():
        return uri
    _refuse_lost(uri)
    return f"{SQLITE}{Path.cwd() / path}"


def _checked_server(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        is_address = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_address = False
    if not is_address or "?" in uri or "#" in uri:
        raise _refusal(uri, "must be http://HOST:PORT, without a query,")
    return uri


def _refuse_lost(uri: str | None) -> None:
    if inside_ray_job():
        raise InputError(
            "--tracking-uri must be given inside a Ray job, whose working folder is temporary, and "
            f"not relative to that folder. Got {uri}. Pass http://HOST:5000 or "
            "sqlite:////ABSOLUTE/mlflow.db, or set MLFLOW_TRACKING_URI."
        )


def _refusal(uri: str, must: str) -> InputError:
    return InputError(
        f"--tracking-uri {must} and no folder of files, which MLflow no longer serves. Got "
        f"{uri[:300]!r}. Correct the flag or MLFLOW_TRACKING_URI, or leave both out."
    )
