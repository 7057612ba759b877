"""Records that MLflow could not take, in the output folder until a later start logs them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from hashlib import sha256
from typing import Any

from pipeline.errors import InputError
from pipeline.storage.json_schema import Malformed, check, parse
from pipeline.storage.local_folder import LocalFolder
from pipeline.storage.object_store import Storage
from pipeline.tracking.operations import Operation, from_document, to_document

FOLDER = "_tracking"
"""Folder within an output folder; readers of outputs pass over names with an underscore."""
PENDING = f"{FOLDER}/pending.jsonl"
OPEN_RUN = f"{FOLDER}/open_run.json"
FILES = f"{FOLDER}/files"
FORMAT = 1
"""Version of the file."""
NOT_SETTINGS = {"tracking", "cluster"}
"""Flags that do not change what a command makes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingHeader:
    """First line of the file."""

    format: int
    claim: str
    """Digest of the settings of the command that did the work."""
    run: str
    """Id of the stage's MLflow run."""
    experiment: str
    ids: dict[str, str]
    """Ids of the runs that are created, by key."""
    files: list[str]
    """Keys of artifacts that are kept beside this file until they are uploaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """Records that are to be applied to a store, in order."""

    header: PendingHeader
    operations: tuple[Operation, ...]
    contents: dict[str, bytes] = field(default_factory=dict)
    """Contents of the header's files that are still to be written."""

    def after(self, applied: int, ids: dict[str, str]) -> Pending:
        """Return what is left once some records are applied."""
        header = replace(self.header, ids=dict(ids))
        return Pending(header=header, operations=self.operations[applied:])

    def write(self, storage: Storage) -> None:
        """Write the kept artifacts, then the records."""
        for key, contents in self.contents.items():
            storage.write(key, contents)
        documents = [asdict(self.header), *map(to_document, self.operations)]
        lines = (json.dumps(document, allow_nan=False) for document in documents)
        storage.write(PENDING, ("\n".join(lines) + "\n").encode())

    def remove(self, storage: Storage) -> None:
        """Delete the file and the kept artifacts."""
        storage.delete(PENDING)
        for key in self.header.files:
            storage.delete(key)
        remove_folder(storage)


def remove_folder(storage: Storage) -> None:
    """Delete what is left of the folder on this machine; an object store has no folders."""
    if isinstance(storage, LocalFolder):
        shutil.rmtree(storage.path / FOLDER, ignore_errors=True)


def read_pending(storage: Storage) -> Pending | None:
    """Read the records that an earlier run left; None if there are none.

    Raises:
        InputError: if the file is damaged.
    """
    if (data := storage.read(PENDING)) is None:
        return None
    try:
        first, *rest = [parse(line) for line in data.splitlines()] or [{}]
        header = check(first, PendingHeader, extra="forbid")
        if header.format != FORMAT or any(not key.startswith(f"{FILES}/") for key in header.files):
            raise Malformed("It must be of another version of this library.")
        return Pending(header=header, operations=tuple(map(from_document, rest)))
    except Malformed as error:
        raise InputError(
            f"{storage}/{PENDING} must hold the MLflow records of an earlier run. {error} The "
            "output is not affected: name another --out to do the work again."
        ) from error


def claim_of(flags: Any) -> str:
    """Return a digest of the flags that decide what a command makes."""
    settings = json.dumps(_settings(flags), sort_keys=True, default=str)
    return sha256(settings.encode()).hexdigest()[:24]


def _settings(flags: Any) -> dict[str, Any]:
    return {
        one.name: _settings(value) if is_dataclass(value := getattr(flags, one.name)) else value
        for one in fields(flags)
        if one.name not in NOT_SETTINGS
    } | {"kind": type(flags).__qualname__}
