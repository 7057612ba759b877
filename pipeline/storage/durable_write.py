"""Writes that survive a power cut: of a file's bytes, and of the name of a new file or folder."""

from __future__ import annotations

import os
import shutil
from itertools import takewhile
from pathlib import Path


def fill(path: Path, data: bytes | Path) -> None:
    """Write a file from bytes or from another file, and sync it to disk."""
    with path.open("wb") as stream:
        if isinstance(data, Path):
            with data.open("rb") as source:
                shutil.copyfileobj(source, stream)
        else:
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, and sync each into the one above."""
    missing = list(takewhile(lambda one: not one.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    for one in reversed(missing):
        sync(one.parent)


def sync(folder: Path) -> None:
    """Sync a folder to disk: after a power cut the name of a new file or folder exists only if the
    folder that holds it was synced too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
