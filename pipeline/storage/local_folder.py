"""Storage in a folder: a file appears whole or not at all, and only once where that is asked for.

A file is written beside its place under a name that begins with an underscore, synced, then
renamed, or linked where it may not replace another. A killed writer leaves at most such a file.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError, StorageError
from pipeline.storage.output_checks import refuse_unwritable

PARTIAL = re.compile(r"_.+\.[0-9a-f]{32}")
"""Names of files that are being written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalFolder:
    """A folder on this machine, or one that every node mounts."""

    path: Path
    """The folder; it need not exist before something is written."""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def address(self) -> str:
        """The folder as an absolute URI."""
        return self.path.absolute().as_uri()

    def refuse_unwritable(self) -> None:
        """Tell before any work that nothing could be written here."""
        refuse_unwritable(str(self.path))

    def read(self, key: str) -> bytes | None:
        """What a file holds, or None where there is none."""
        with self._told():
            try:
                return self._at(key).read_bytes()
            except FileNotFoundError:
                return None

    def open(self, key: str) -> io.BufferedReader:
        """A file to read from, anywhere in it."""
        with self._told():
            try:
                return self._at(key).open("rb")
            except FileNotFoundError as error:
                raise gone(f"{self}/{key}") from error

    def write(self, key: str, data: bytes | Path) -> None:
        """A file of some bytes, or of what another holds; one that is there is replaced."""
        self._publish(key, data, os.replace)

    def create(self, key: str, data: bytes) -> bool:
        """A file that was not there; False, and nothing written, where it was.

        A network file system may have created it and lost its answer: read it to be sure.
        """
        try:
            self._publish(key, data, os.link)
        except FileExistsError:
            return False
        return True

    def _publish(self, key: str, data: bytes | Path, place: Callable[[Path, Path], object]) -> None:
        target = self._at(key)
        temporary = target.with_name(f"_{target.name}.{uuid.uuid4().hex}")
        with self._told():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                _fill(temporary, data)
                place(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
            _sync(target.parent)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file of a folder, by name in order, without what is being written."""
        with self._told():
            try:
                found = list(os.scandir(self._at(folder)))
            except FileNotFoundError:
                return {}
            # What is being written, or deleted, goes while one looks.
            visible = (entry for entry in found if not entry.name.startswith("_"))
            files = {entry.name: _size_of_file(entry) for entry in visible}
        return {name: size for name in sorted(files) if (size := files[name]) is not None}

    def is_empty(self) -> bool:
        """Whether nothing lies here, but for names that begin with an underscore."""
        with self._told():
            try:
                return all(path.name.startswith("_") for path in self.path.iterdir())
            except FileNotFoundError:
                return True

    def size(self, key: str) -> int | None:
        """Bytes of a file, or None where there is none."""
        with self._told():
            try:
                return self._at(key).stat().st_size
            except FileNotFoundError:
                return None

    def matches(self, key: str, sha256: str) -> bool:
        """Whether a file has a digest."""
        with self.open(key) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256

    def delete(self, key: str) -> None:
        """Remove a file, if it is there."""
        with self._told():
            self._at(key).unlink(missing_ok=True)

    def delete_partial(self, folder: str) -> None:
        """Remove what killed writers left in a folder."""
        with self._told():
            if (place := self._at(folder)).is_dir():
                for path in place.iterdir():
                    if PARTIAL.fullmatch(path.name):
                        path.unlink(missing_ok=True)

    def _at(self, key: str) -> Path:
        return self.path / checked_key(key)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileExistsError as error:
            # Of a link: the file is there. Of a folder: a file is in its way.
            if error.filename2 is not None:
                raise
            raise self._refusal("which is a file") from error
        except NotADirectoryError as error:
            raise self._refusal("which is a file, or below one") from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise self._refusal(f"with the error: {reason}") from error

    def _refusal(self, what: str) -> InputError:
        return StorageError(
            f"Storage must be a folder that can be read and written, with hard links. Got "
            f"{self.path}, {what}. Fix the folder, or name another one."
        )


def gone(what: str) -> InputError:
    """A file that was there and is not: compaction may have replaced it meanwhile."""
    return InputError(
        f"{what} must exist to be read. Got no such file, perhaps because a collection that was "
        "running has replaced it. Run the command again."
    )


def checked_key(key: str) -> str:
    """A key that names something below a root, and nothing else.

    Raises:
        ValueError: if it would lead elsewhere.
    """
    if "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(f"key must be names joined by slashes. Got {key!r}. Pass gates/x.parquet.")
    return key


def _size_of_file(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_size if entry.is_file() else None
    except FileNotFoundError:
        return None


def _fill(path: Path, data: bytes | Path) -> None:
    with path.open("wb") as stream:
        if isinstance(data, Path):
            with data.open("rb") as source:
                shutil.copyfileobj(source, stream)
        else:
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    # A name survives a power cut only with its folder.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
