"""Policy and results folders on this machine or in an object store.

A folder on this machine is used in place. Of an object store, files are fetched into a temporary
folder to be read, and written into a scratch folder that is then uploaded. The file that marks a
folder as complete is uploaded last, so that no reader takes an unfinished upload for complete.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dqar.registry import is_registered, local_folder
from pipeline.errors import InputError, input_errors
from pipeline.storage.local_folder import LocalFolder
from pipeline.storage.object_store import Storage, open_storage
from pipeline.storage.output_checks import refuse_other_files
from pipeline.storage.path_checks import is_uri
from pipeline.storage.unfinished_folder import work_begun

UPLOADING = "_uploading"
"""Name of the object that marks a prefix while a stage replaces its files."""
POLICY_FILES = ("policy.json", "policy.safetensors")
FETCHED_BYTES = 1 << 28
"""Largest size of a fetched file in bytes."""


def refuse_taken(out: str, ours: str) -> None:
    """Refuse, before any work, an output folder that is neither new nor of an earlier run.

    Args:
        out: path or URI of the folder.
        ours: name of the file that marks the stage's own folders.

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
    """Return a scratch folder whose name depends on the place alone.

    The folder is kept if the work or the upload fails, so that the same command on this machine
    resumes from it.
    """
    name = hashlib.sha256(place.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"dqar-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise InputError(
            f"{folder} must be a folder of this user. Got a symbolic link or another user's "
            "folder. Set TMPDIR to a folder of this user."
        )
    return folder


@contextmanager
def published(out: str, last: str) -> Iterator[Path]:
    """Yield a folder on this machine to write into; its files are uploaded to ``out`` at the end.

    Args:
        out: path or URI of the output folder. A path is used in place.
        last: name of the file that marks the folder as complete.

    Raises:
        IncompleteError: if storage fails in the block or in the upload.
    """
    storage = open_storage(out)
    if isinstance(storage, LocalFolder):
        with work_begun(storage.path):
            yield storage.path
        return
    folder = _scratch(str(storage))
    with work_begun(folder):
        yield folder
        _upload(folder, storage, last)


def _upload(folder: Path, storage: Storage, last: str) -> None:
    """Upload the files of a scratch folder, ``last`` at the end, and remove the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    storage.write(UPLOADING, b"")
    # A folder of an earlier run is not complete once one of its files is replaced.
    storage.delete(last)
    for path in sorted(files, key=lambda path: path == folder / last):
        storage.write(path.relative_to(folder).as_posix(), path)
    storage.delete(UPLOADING)
    shutil.rmtree(folder)
    print(f"{folder} was uploaded to {storage}", flush=True)


@contextmanager
def fetched(uri: str, names: tuple[str, ...], tracking_uri: str | None = None) -> Iterator[str]:
    """Yield a folder on this machine with those of the named files that a path or URI holds.

    Args:
        uri: path, storage URI, or URI of a registered policy (``models:/NAME@ALIAS``).
        names: files to fetch; of a registered policy, all are fetched.
        tracking_uri: MLflow store of a registered policy.

    Raises:
        InputError: as the block raises it, with the URI in place of the temporary folder.
    """
    if is_registered(uri):
        with (
            input_errors(),
            local_folder(uri, tracking_uri) as place,
            _named_by_its_uri(uri, str(place)),
        ):
            yield str(place)
        return
    storage = open_storage(uri)
    if isinstance(storage, LocalFolder):
        yield str(storage)
        return
    with tempfile.TemporaryDirectory(prefix="dqar-") as scratch:
        for name in names:
            if (data := storage.read(name, FETCHED_BYTES)) is not None:
                (Path(scratch) / name).write_bytes(data)
        with _named_by_its_uri(uri, scratch):
            yield scratch


@contextmanager
def _named_by_its_uri(uri: str, folder: str) -> Iterator[None]:
    """Name a URI in place of its temporary folder in refusals, which are read when that is gone."""
    try:
        yield
    except InputError as refusal:
        raise InputError(str(refusal).replace(folder, uri)) from refusal


@contextmanager
def fetched_file(uri: str) -> Iterator[str]:
    """Yield the path of a file on this machine, fetched if a URI names it.

    Raises:
        InputError: if there is no such object; as the block raises it, with the URI in place of the
            temporary path.
    """
    if not is_uri(uri):
        yield uri
        return
    folder, _, name = uri.rpartition("/")
    if (data := open_storage(folder).read(name, FETCHED_BYTES)) is None:
        raise InputError(f"{uri} must exist. Got no such object. Correct the URI.")
    with tempfile.TemporaryDirectory(prefix="dqar-") as scratch:
        path = Path(scratch) / name
        path.write_bytes(data)
        with _named_by_its_uri(uri, str(path)):
            yield str(path)


@contextmanager
def fetched_policies(flags: list[str], tracking_uri: str | None = None) -> Iterator[list[str]]:
    """Fetch the policies of ``[NAME=]URI`` flags; yield the flags as ``[NAME=]FOLDER``."""
    with ExitStack() as stack:
        local = []
        for flag in flags:
            name, equals, uri = flag.rpartition("=")
            local.append(
                f"{name}{equals}{stack.enter_context(fetched(uri, POLICY_FILES, tracking_uri))}"
            )
        yield local
