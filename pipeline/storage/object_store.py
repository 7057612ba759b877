"""Storage by URI: the same methods for folders and for object stores.

Only this module and ``store_client.py`` import obstore. An object is visible once its upload is
complete, so that no temporary names are needed. Credentials, region and endpoint come from the
environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``, an
instance's role), and never appear in messages.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import GCSStore, S3Store

from dqar.registry import is_registered
from dqar.regular_file import DOCUMENT_BYTES
from pipeline.errors import InputError, StorageError
from pipeline.storage.local_folder import LocalFolder, checked_key, gone
from pipeline.storage.range_reader import Ranges
from pipeline.storage.store_client import BrokenReadError, ObjectRead, connect
from pipeline.storage.store_errors import code_of, mend_of, reason_of

OBJECT_URI = re.compile(
    r"(?P<scheme>s3|gs)://(?P<bucket>[a-z0-9][a-z0-9._-]+)(?:/(?P<prefix>[^?#]*))?"
)
READ_AT_ONCE = 1 << 23
"""Bytes of an object that a digest fetches in one request and holds in memory."""
PARTS_AT_ONCE = 3
"""Parts of 5 MiB that an upload sends at the same time. A part is answered once it is whole, so
that more parts at once need a faster line to be sent in time."""
CHEAP = 1 << 20
"""Bytes up to which an object is compared with its digest before its unit counts as done: one
request fetches it. More would make the driver fetch the whole collection at each start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Storage of the objects below a prefix of a bucket."""

    uri: str
    """``s3://bucket/prefix`` or ``gs://bucket/prefix``, without a slash at its end."""

    def __str__(self) -> str:
        return self.uri

    @property
    def address(self) -> str:
        """URI of the prefix."""
        return self.uri

    def refuse_unwritable(self) -> None:
        """Raise a StorageError, before any work, if the bucket does not answer; whether it can be
        written to shows only with the first object."""
        self.is_empty()

    def read(self, key: str, at_most: int = DOCUMENT_BYTES) -> bytes | None:
        """Return the contents of an object, or None if there is no such object.

        Raises:
            StorageError: if the object has more than ``at_most`` bytes.
        """
        with self._storage_errors():
            try:
                data = ObjectRead(self._store, checked_key(key)).bytes(at_most)
            except FileNotFoundError as error:
                return self._none(error)
        if data is None:
            raise StorageError(
                f"{self}/{key} must be an object of at most {at_most} bytes. Got a larger one. "
                "Check what wrote it, then run the command again."
            )
        return data

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes of an object from ``start`` up to, not including, ``end``."""
        with self._storage_errors():
            data = ObjectRead(self._store, checked_key(key), (start, end)).bytes(end - start)
        assert data is not None
        return data

    def open(self, key: str) -> io.RawIOBase:
        """Open an object for reading by ranges; an InputError if there is no such object."""
        size = self.size(key)
        if size is None:
            raise gone(f"{self}/{key}")
        return Ranges(lambda start, end: self.read_range(key, start, end), size)

    def write(self, key: str, data: bytes | Path) -> None:
        """Write an object from bytes or from a file, replacing an object of that key."""
        with self._storage_errors():
            obstore.put(self._to_write, checked_key(key), data, max_concurrency=PARTS_AT_ONCE)

    def create(self, key: str, data: bytes) -> bool:
        """Create an object; return False, and write nothing, if an object of that key exists.

        False may also follow a request that succeeded unanswered: read the object to know."""
        with self._storage_errors():
            try:
                obstore.put(self._to_write, checked_key(key), data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each object directly below a folder, by name in order."""
        return {name: meta["size"] for name, meta in self._listed(folder).items()}

    def stamps(self, folder: str) -> dict[str, str]:
        """Return a text for each object directly below a folder, by name, that is another after
        the object was replaced; objects without an ETag are left out."""
        return {
            name: f"{meta['size']} {meta['e_tag']} {meta['last_modified'].isoformat()}"
            for name, meta in self._listed(folder).items()
            if meta["e_tag"]
        }

    def _listed(self, folder: str) -> dict[str, Any]:
        with self._storage_errors():
            chunks = list(obstore.list(self._store, checked_key(folder), chunk_size=1000))
        found = {meta["path"]: meta for chunk in chunks for meta in chunk}
        visible = re.compile(rf"{re.escape(folder)}/[^/_][^/]*")
        paths = sorted(path for path in found if visible.fullmatch(path))
        return {path.removeprefix(f"{folder}/"): found[path] for path in paths}

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects directly below a folder, in order."""
        return list(self.sizes(folder))

    def is_empty(self) -> bool:
        """Return True if the prefix holds no names but those that begin with an underscore."""
        with self._storage_errors():
            found = obstore.list_with_delimiter(self._store)
        names = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        # A bucket browser may have made an empty object for the prefix itself.
        return all(name.startswith("_") for name in names if name)

    def size(self, key: str) -> int | None:
        """Return the bytes of an object, or None if there is no such object."""
        with self._storage_errors():
            try:
                return obstore.head(self._store, checked_key(key))["size"]
            except FileNotFoundError as error:
                return self._none(error)

    def sha256(self, key: str) -> str:
        """Return the SHA-256 of an object in hex digits, from all its bytes, in bounded memory."""
        with io.BufferedReader(self.open(key), READ_AT_ONCE) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def matches(self, key: str, sha256: str) -> bool:
        """Return False if an object of at most :data:`CHEAP` bytes has another SHA-256; True,
        unread, for a larger one: stores verify what they receive and what they store.
        """
        with self._storage_errors():
            data = ObjectRead(self._store, checked_key(key)).bytes(CHEAP)
        return data is None or hashlib.sha256(data).hexdigest() == sha256

    def delete(self, key: str) -> None:
        """Delete an object if it exists."""
        with self._storage_errors():
            try:
                obstore.delete(self._to_write, checked_key(key))
            except FileNotFoundError as error:
                self._none(error)

    def delete_partial(self, folder: str) -> None:
        """Do nothing: an unfinished upload is no object; a lifecycle rule should abort it."""

    @property
    def _store(self) -> S3Store | GCSStore:
        return connect(self.uri)

    @property
    def _to_write(self) -> S3Store | GCSStore:
        return connect(self.uri, to_write=True)

    def _none(self, error: FileNotFoundError) -> None:
        """Return None for a missing object; raise the error for a missing bucket."""
        if code_of(error) == "NoSuchBucket":
            raise error

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, BrokenReadError, EOFError, OSError) as error:
            raise StorageError(
                f"Storage must answer. Got an error from {self.uri}: {reason_of(error)}. "
                f"{mend_of(error)}."
            ) from None


Storage: TypeAlias = LocalFolder | Bucket
Root: TypeAlias = Storage | Path | str
"""Place of files: storage, a path or a URI."""


def open_storage(root: Root) -> Storage:
    """Return the storage of a path, ``file://``, ``s3://bucket/prefix`` or ``gs://bucket/prefix``.

    Nothing is contacted yet: a missing folder or bucket shows with the first use.

    Raises:
        InputError: for any other URI.
    """
    if isinstance(root, LocalFolder | Bucket):
        return root
    uri = str(root)
    if "\0" in uri or not uri:
        raise InputError(f"Storage must be a path or a URI. Got {uri!r}. Pass a path or a URI.")
    if uri.startswith("file:"):
        return _local(uri)
    if is_registered(uri):
        raise InputError(
            f"A registered model holds a policy alone. Got {uri!r:.100}. Pass a path or a URI."
        )
    # pathlib collapses the slashes of a URI to s3:/bucket.
    is_remote = "://" in uri or uri.startswith(("s3:", "gs:"))
    return _remote(uri) if is_remote else LocalFolder(path=Path(root))


def _local(uri: str) -> LocalFolder:
    parts = urlsplit(uri)
    is_plain = not (parts.query or parts.fragment) and "#" not in uri and "?" not in uri
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or not is_plain:
        raise InputError(f"A file URI must be file:///ABSOLUTE/PATH. Got {uri!r}. Correct the URI.")
    return LocalFolder(path=Path(unquote(parts.path)))


def _remote(uri: str) -> Bucket:
    found = OBJECT_URI.fullmatch(uri)
    prefix = (found["prefix"] or "").strip("/") if found else ".."
    try:
        checked_key(prefix or "root")
    except ValueError:
        raise InputError(
            "Storage must be a path, file:///PATH, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX. Got "
            f"{uri!r}. Correct the URI; credentials belong in the environment."
        ) from None
    assert found is not None
    return Bucket(uri=f"{found['scheme']}://{found['bucket']}/{prefix}".rstrip("/"))
