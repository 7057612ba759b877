"""Answers of an evaluation's workers, kept until the evaluation is whole: a run that was cut off
asks only for what is missing.

An answer is ``KEY.npz`` (arrays, never pickled) and ``KEY.json`` (the rest), which appears last, by
an atomic rename. KEY digests the task, the configuration and the model's weights, so that an answer
to anything else is not found; one that cannot be read is none.
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
from typing import Any

import numpy as np

from pipeline.answers import Answer, Task, packed, unpacked
from pipeline.storage.fingerprint import fingerprint
from pipeline.storage.local_folder import LocalFolder

FOLDER = "_points"
"""Folder of the answers within a results folder; gone when the results are written."""
VERSION = 1
"""Of what is kept."""
MAX_BYTES = 2**30
"""Size of a file beyond which it is no answer."""
UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)
"""What reading an answer that is damaged may end in."""
Work = Callable[[Sequence[Any]], Iterator[tuple[Any, Any]]]
"""What does tasks: yields each with its answer, in any order."""


class KeptAnswers:
    """The answers of one evaluation on disk.

    Args:
        folder: where they are, made when the first is kept.
        claim: what all tasks share: the configuration, the model's digest.
    """

    def __init__(self, folder: Path, *claim: Any) -> None:
        self.folder = folder
        self.claim = fingerprint(VERSION, *claim)

    def work(self, tasks: Sequence[Task], work: Work) -> Iterator[tuple[Task, Answer]]:
        """Yield each task with its answer: those kept first, then the others as they are done."""
        found = [(task, self.take(task)) for task in tasks]
        missing = [task for task, answer in found if answer is None]
        if len(missing) < len(tasks):
            kept = len(tasks) - len(missing)
            print(f"evaluate: {kept} of {len(tasks)} answers are of an earlier run", flush=True)
        yield from ((task, answer) for task, answer in found if answer is not None)
        for task, answer in work(missing):
            self.keep(task, answer)
            yield task, answer

    def take(self, task: Task) -> Answer | None:
        """The answer to a task, or None."""
        path = self._path(task)
        arrays = path.with_suffix(".npz")
        try:
            if max(path.stat().st_size, arrays.stat().st_size) > MAX_BYTES:
                return None
            stored, data = json.loads(path.read_text()), arrays.read_bytes()
            if stored.pop("digest") != _digest(stored, data):
                return None
            with np.load(io.BytesIO(data), allow_pickle=False) as found:
                return unpacked(task, stored, {name: found[name] for name in found.files})
        except UNREADABLE:
            return None

    def keep(self, task: Task, answer: Answer) -> None:
        """Write an answer; it appears whole or not at all."""
        path, folder = self._path(task), LocalFolder(path=self.folder)
        stored, arrays = packed(answer)
        named: Any = arrays
        buffer = io.BytesIO()
        np.savez(buffer, **named)
        # As it reads again: JSON knows texts alone for names.
        stored = json.loads(json.dumps(stored))
        stored["digest"] = _digest(stored, buffer.getvalue())
        folder.write(path.with_suffix(".npz").name, buffer.getvalue())
        folder.write(path.name, json.dumps(stored).encode())

    def _path(self, task: Task) -> Path:
        return self.folder / f"{fingerprint(self.claim, task)}.json"

    def clear(self) -> None:
        """Remove what was kept."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _digest(stored: dict[str, Any], data: bytes) -> str:
    """Of both files, so that one that was damaged or belongs to another is no answer."""
    text = json.dumps(stored, sort_keys=True).encode()
    return hashlib.sha256(text + b"\n" + data).hexdigest()
