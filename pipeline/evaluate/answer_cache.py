"""Results of an evaluation's tasks on disk: an interrupted evaluation resumes with the rest.

A result is ``KEY.npz`` (arrays, never pickled) and ``KEY.json`` (all other values), which appears
last, by an atomic rename. KEY is a digest of the task, the configuration and the model's weights,
so that no other result is found under it. A result that cannot be read counts as missing.

The cache does not depend on the type of a task: a task decodes its result, a result encodes itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dqar.regular_file import read_regular
from pipeline.methods.task import Arrays, Result, Stored
from pipeline.storage.fingerprint import fingerprint
from pipeline.storage.local_folder import LocalFolder

FOLDER = "_points"
"""Folder of task results within a results folder; removed after results.json is written."""
VERSION = 3
"""Version of the format on disk, part of every key."""
MAX_BYTES = 2**30
"""Size in bytes beyond which a file counts as damaged."""
UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)
"""Exceptions that reading a damaged result may raise."""
Work = Callable[[Sequence[Any]], Iterator[tuple[Any, Any]]]
"""Runs tasks and yields each task with its result, in any order."""


@runtime_checkable
class CachedTask(Protocol):
    """Task whose result can be read back from disk."""

    def decode(self, stored: Stored, arrays: Arrays) -> Result:
        """Rebuild a result from its encoded form."""
        ...


class ResultCache:
    """Results of one evaluation's tasks on disk.

    Args:
        folder: created when the first result is written.
        claim: values that all tasks share and that a result depends on, such as the configuration
            and the digest of the model.
    """

    def __init__(self, folder: Path, *claim: Any) -> None:
        self.folder = folder
        self.claim = fingerprint(VERSION, *claim)

    def work(self, tasks: Sequence[CachedTask], work: Work) -> Iterator[tuple[CachedTask, Result]]:
        """Yield each task with its result: those on disk first, others as ``work`` yields them."""
        found = [(task, self.take(task)) for task in tasks]
        missing = [task for task, result in found if result is None]
        if len(missing) < len(tasks):
            kept = len(tasks) - len(missing)
            print(
                f"evaluate: {kept} of {len(tasks)} tasks were done before an interruption; their "
                f"results are read from {self.folder}",
                flush=True,
            )
        yield from ((task, result) for task, result in found if result is not None)
        for task, result in work(missing):
            self.keep(task, result)
            yield task, result

    def take(self, task: CachedTask) -> Result | None:
        """Return the stored result of a task; None if there is none, or if it cannot be read."""
        path = self._path(task)
        try:
            stored = json.loads(read_regular(path, MAX_BYTES))
            data = read_regular(path.with_suffix(".npz"), MAX_BYTES)
            if stored.pop("digest") != _digest(stored, data):
                return None
            with np.load(io.BytesIO(data), allow_pickle=False) as found:
                return task.decode(stored, {name: found[name] for name in found.files})
        except UNREADABLE:
            return None

    def keep(self, task: CachedTask, result: Result) -> None:
        """Write a result, atomically: a reader finds the whole result or none."""
        path, folder = self._path(task), LocalFolder(path=self.folder)
        stored, arrays = result.encode()
        named: Any = arrays
        buffer = io.BytesIO()
        np.savez(buffer, **named)
        # JSON turns all keys into strings, so the digest is of the document after a round trip.
        stored = json.loads(json.dumps(stored))
        stored["digest"] = _digest(stored, buffer.getvalue())
        folder.write(path.with_suffix(".npz").name, buffer.getvalue())
        folder.write(path.name, json.dumps(stored).encode())

    def _path(self, task: CachedTask) -> Path:
        return self.folder / f"{fingerprint(self.claim, task)}.json"

    def clear(self) -> None:
        """Remove all stored results."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _digest(stored: dict[str, Any], data: bytes) -> str:
    """Return the digest of both files, which detects a damaged file and files that do not match."""
    text = json.dumps(stored, sort_keys=True).encode()
    return hashlib.sha256(text + b"\n" + data).hexdigest()
