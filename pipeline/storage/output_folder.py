"""Policy and results folders wherever they lie: fetched to be read, written here and then uploaded.

A folder on this machine is used where it is. An object store gets the file that marks a folder as
complete last, so that nobody reads one that is still being written.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.errors import InputError
from pipeline.storage.local_folder import LocalFolder
from pipeline.storage.object_store import open_storage
from pipeline.storage.output_checks import refuse_other_files

UPLOADING = "_uploading"
"""Lies in a place while its files are replaced: what is there is ours, and not whole."""
POLICY_FILES = ("policy.json", "policy.safetensors")


def refuse_taken(out: str, ours: str) -> None:
    """A stage writes into a new folder, or over what it wrote itself, and is told so before any
    work.

    Raises:
        InputError: if the folder holds files but not ``ours``, or cannot be written to.
    """
    storage = open_storage(out)
    if isinstance(storage, LocalFolder):
        refuse_other_files(str(storage), ours)
        storage.refuse_unwritable()
    elif not storage.is_empty() and storage.size(ours) is None is storage.size(UPLOADING):
        raise InputError(
            f"--out must be a new folder or hold {ours} of an earlier run. Got {out}, which holds "
            "other files. Name another folder."
        )


def _scratch(place: str) -> Path:
    """A folder that is the same for the same place, and stays if the work or the upload fails, so
    that the same command on this machine takes up what is done."""
    name = hashlib.sha256(place.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"dqar-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise InputError(
            f"{folder} must be a folder of this user. Got a symbolic link or another user's "
            "folder. Remove it, or set TMPDIR to a folder of this user."
        )
    return folder


@contextmanager
def published(out: str, last: str) -> Iterator[Path]:
    """A folder on this machine to write into; what it holds at the end lies behind ``out``.

    Args:
        last: the file that marks a folder as complete.
    """
    storage = open_storage(out)
    if isinstance(storage, LocalFolder):
        yield storage.path
        return
    folder = _scratch(str(storage))
    yield folder
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    storage.write(UPLOADING, b"")
    # What an earlier run left is no longer complete once a file of it is replaced.
    storage.delete(last)
    for path in sorted(files, key=lambda path: path == folder / last):
        storage.write(path.relative_to(folder).as_posix(), path)
    storage.delete(UPLOADING)
    shutil.rmtree(folder)
    print(f"{folder} was uploaded to {storage}", flush=True)


@contextmanager
def fetched(uri: str, names: tuple[str, ...]) -> Iterator[str]:
    """A folder on this machine with those of the named files that lie behind a URI.

    Raises:
        InputError: what the block refuses of the folder, said of the URI.
    """
    storage = open_storage(uri)
    if isinstance(storage, LocalFolder):
        yield str(storage)
        return
    with tempfile.TemporaryDirectory(prefix="dqar-") as scratch:
        for name in names:
            if (data := storage.read(name)) is not None:
                (Path(scratch) / name).write_bytes(data)
        try:
            yield scratch
        except InputError as refusal:
            raise InputError(str(refusal).replace(scratch, uri)) from refusal


@contextmanager
def fetched_policies(flags: list[str]) -> Iterator[list[str]]:
    """``[NAME=]URI`` flags as ``[NAME=]FOLDER``."""
    with ExitStack() as stack:
        local = []
        for flag in flags:
            name, equals, uri = flag.rpartition("=")
            local.append(f"{name}{equals}{stack.enter_context(fetched(uri, POLICY_FILES))}")
        yield local
