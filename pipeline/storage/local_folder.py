"""Storage in a folder, with atomic writes: a file appears whole or not at all.

A file is written under a temporary name that begins with an underscore, synced to disk, and then
renamed to its key, or hard-linked if it may not replace another file; last, the folder is synced
(Pillai et al., *All File Systems Are Not Created Equal*, OSDI 2014). A folder that the write had to
make is synced into the folder above it. A writer that is killed leaves at most the temporary file.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dqar.regular_file import (
    DOCUMENT_BYTES,
    NotRegularError,
    open_regular,
    read_regular,
    refuse_other_kinds,
)
from pipeline.errors import InputError
from pipeline.storage.durable_write import fill, make_folder, sync
from pipeline.storage.file_errors import refusal_of
from pipeline.storage.output_checks import refuse_unwritable

PARTIAL = re.compile(r"_.+\.[0-9a-f]{32}")
"""Names of the temporary files of unfinished writes."""
RECENT_S = 2.0
"""Seconds that a file must be unchanged for its time of change to identify its contents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalFolder:
    """Folder on this machine, or one that every node mounts."""

    path: Path
    """Path of the folder, which is created by the first write."""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def address(self) -> str:
        """Absolute ``file://`` URI of the folder."""
        return self.path.absolute().as_uri()

    def refuse_unwritable(self) -> None:
        """Refuse, before any work, a folder that cannot be written to.

        Raises:
            InputError: if the folder cannot be created or not written to.
        """
        refuse_unwritable(str(self.path))

    def read(self, key: str, at_most: int = DOCUMENT_BYTES) -> bytes | None:
        """Return the contents of a file, or None if there is no such file.

        Raises:
            StorageError: if the file has more than ``at_most`` bytes or is no regular file.
        """
        with self._storage_errors():
            try:
                return read_regular(self._at(key), at_most)
            except FileNotFoundError:
                return None

    def open(self, key: str) -> io.BufferedReader:
        """Open a file for reading, with seeking.

        Raises:
            InputError: if there is no such file.
        """
        with self._storage_errors():
            try:
                return open_regular(self._at(key))
            except FileNotFoundError as error:
                raise gone(f"{self}/{key}") from error

    def write(self, key: str, data: bytes | Path) -> None:
        """Write a file from bytes or from another file, replacing a file of that key."""
        self._publish(key, data, os.replace)

    def create(self, key: str, data: bytes) -> bool:
        """Create a file; return False, and write nothing, if a file of that key exists.

        False may also follow a request that succeeded and whose answer a network file system lost:
        read the file to know.
        """
        try:
            self._publish(key, data, os.link)
        except FileExistsError:
            return False
        return True

    def _publish(self, key: str, data: bytes | Path, place: Callable[[Path, Path], object]) -> None:
        target = self._at(key)
        temporary = target.with_name(f"_{target.name}.{uuid.uuid4().hex}")
        with self._storage_errors():
            make_folder(target.parent)
            try:
                fill(temporary, data)
                place(temporary, target)
            finally:
                # An error here, as on a disk that turned read-only, would hide the first one.
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
            sync(target.parent)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each file of a folder, by name in order; unfinished writes are left
        out."""
        with self._storage_errors():
            try:
                found = list(os.scandir(self._at(folder)))
            except FileNotFoundError:
                return {}
            # Files may vanish between the listing and the request for their size.
            visible = (entry for entry in found if not entry.name.startswith("_"))
            files = {entry.name: about.st_size for entry in visible if (about := _facts_of(entry))}
        return dict(sorted(files.items()))

    def names(self, folder: str) -> list[str]:
        """Return all names of a folder, in order, of whatever kind; unfinished writes are left
        out."""
        with self._storage_errors():
            try:
                found = os.listdir(self._at(folder))
            except FileNotFoundError:
                return []
        return sorted(name for name in found if not name.startswith("_"))

    def is_empty(self) -> bool:
        """Return True if the folder holds no names but those that begin with an underscore."""
        with self._storage_errors():
            try:
                return all(path.name.startswith("_") for path in self.path.iterdir())
            except FileNotFoundError:
                return True

    def size(self, key: str) -> int | None:
        """Return the bytes of a file, or None if there is no such file.

        Raises:
            StorageError: if something else than a regular file has that name.
        """
        with self._storage_errors():
            try:
                return refuse_other_kinds(self._at(key)).st_size
            except FileNotFoundError:
                return None

    def stamps(self, folder: str) -> dict[str, str]:
        """Return a text for each file of a folder, by name, that is another after the file changed.

        Files that changed in the last :data:`RECENT_S` seconds are left out: one that changes again
        may keep the time of its first change.
        """
        with self._storage_errors():
            try:
                found = {entry.name: _facts_of(entry) for entry in os.scandir(self._at(folder))}
            except FileNotFoundError:
                return {}
        before = time.time() - RECENT_S
        files = {name: about for name, about in found.items() if about}
        return {name: _stamp(about) for name, about in files.items() if about.st_ctime < before}

    def sha256(self, key: str) -> str:
        """Return the SHA-256 of a file in hex digits, from all its bytes, in bounded memory.

        Raises:
            InputError: if there is no such file.
        """
        with self._storage_errors():
            try:
                with open_regular(self._at(key)) as stream:
                    return hashlib.file_digest(stream, "sha256").hexdigest()
            except FileNotFoundError as error:
                raise gone(f"{self}/{key}") from error

    def matches(self, key: str, sha256: str) -> bool:
        """Return True if the contents of a file have the given SHA-256."""
        return self.sha256(key) == sha256

    def delete(self, key: str) -> None:
        """Delete a file if it exists."""
        with self._storage_errors():
            self._at(key).unlink(missing_ok=True)

    def delete_partial(self, folder: str) -> None:
        """Delete the temporary files that killed writers left in a folder."""
        with self._storage_errors():
            if (place := self._at(folder)).is_dir():
                for path in place.iterdir():
                    if PARTIAL.fullmatch(path.name):
                        path.unlink(missing_ok=True)

    def _at(self, key: str) -> Path:
        return self.path / checked_key(key)

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # A second file name means a failed link: the file to create exists.
            if isinstance(error, FileExistsError) and error.filename2 is not None:
                raise
            raise refusal_of(error, self.path) from error


def gone(what: str) -> InputError:
    """Return the error for a file that does not exist; compaction may have replaced the file."""
    return InputError(
        f"{what} must exist to be read. Got no such file, perhaps because a collection that was "
        "running has replaced it. Run the command again."
    )


def checked_key(key: str) -> str:
    """Return a key that names a file below a root.

    Raises:
        ValueError: if the key would lead out of the root.
    """
    if "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(f"key must be names joined by slashes. Got {key!r}. Pass gates/x.parquet.")
    return key


def _facts_of(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the facts about a regular file; None for anything else, such as a link to nothing."""
    try:
        return refuse_other_kinds(Path(entry.path))
    except (FileNotFoundError, NotRegularError):
        return None


def _stamp(about: os.stat_result) -> str:
    return f"{about.st_size} {about.st_ino} {about.st_mtime_ns} {about.st_ctime_ns}"
