"""Clients of object stores: their timeouts, and reads that go on where a connection broke.

A call ends within ``DQAR_STORAGE_TIMEOUT_S`` seconds if the store does not answer. A request that
only reads is tried again within these seconds; one that writes is not once it was sent, since its
first try may have been carried out.
"""

from __future__ import annotations

import functools
import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import GCSStore, S3Store

from pipeline.errors import InputError

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, RetryConfig

STORES = {"s3": S3Store, "gs": GCSStore}
READ_TRIES = 4
"""Requests for one object or range; each after the first asks for the bytes that are missing."""


class BrokenReadError(Exception):
    """Answer of a store that ended before its last byte, in every try."""

    def __init__(self, got: int, size: int) -> None:
        super().__init__(f"the connection broke after {got} of {size} bytes")


@functools.lru_cache(maxsize=64)
def connect(uri: str, *, to_write: bool = False) -> S3Store | GCSStore:
    """Return a client of the store below a URI.

    Args:
        uri: ``s3://bucket/prefix`` or ``gs://bucket/prefix``.
        to_write: True for requests that are not tried again after a silence.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    patience = patience_s()
    silence, retries = (0.8, 0.2) if to_write else (1 / 3, 1 / 3)
    client: ClientConfig = {
        "read_timeout": timedelta(seconds=patience * silence),
        # Of a whole transfer, which may be long as long as bytes arrive.
        "timeout": timedelta(seconds=40 * patience),
        "connect_timeout": timedelta(seconds=min(patience * silence, 5.0)),
        # Client options given here replace those of the environment, AWS_ALLOW_HTTP included.
        "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"),
    }
    retry: RetryConfig = {
        "max_retries": 4,
        "retry_timeout": timedelta(seconds=patience * retries),
    }
    return STORES[scheme](bucket, prefix=prefix or None, client_options=client, retry_config=retry)


def patience_s() -> float:
    """Return the seconds after which a call to a store that does not answer ends.

    Raises:
        InputError: if ``DQAR_STORAGE_TIMEOUT_S`` is no number above 0.
    """
    text = os.environ.get("DQAR_STORAGE_TIMEOUT_S", "25")
    try:
        patience = timedelta(seconds=float(text)).total_seconds()
    except (ValueError, OverflowError):
        patience = 0.0
    if patience <= 0.0:
        raise InputError(f"DQAR_STORAGE_TIMEOUT_S must be seconds above 0. Got {text!r}. Unset it.")
    return patience


class ObjectRead:
    """One read of an object or of a range, which remembers what has arrived.

    Args:
        store: client.
        key: name of the object.
        span: first byte and the byte after the last; None for the whole object.
    """

    def __init__(
        self, store: S3Store | GCSStore, key: str, span: tuple[int, int] | None = None
    ) -> None:
        self._store, self._key, self._span = store, key, span
        self._data = bytearray()
        self._size = None if span is None else span[1] - span[0]
        self._e_tag: str | None = None

    def bytes(self, at_most: int) -> bytes | None:
        """Return the bytes; None if there are more than ``at_most``, which are not fetched.

        Raises:
            BrokenReadError: if the connection broke in every try.
            BaseError: if the store answered with an error.
            FileNotFoundError: if there is no such object.
        """
        # A later try begins no later than a third of the patience, so that all end in time.
        deadline = time.monotonic() + patience_s() / 3
        for number in range(READ_TRIES):
            try:
                return self._continued(at_most)
            except PreconditionError:
                # The object was replaced meanwhile: its first bytes are of another version.
                self._data.clear()
                self._size, self._e_tag = None, None
            except (BaseError, EOFError):
                if self._size is None or self._e_tag is None:
                    raise
                if time.monotonic() > deadline:
                    break
            time.sleep(0.1 * 2**number)
        raise BrokenReadError(len(self._data), self._size or 0)

    def _continued(self, at_most: int) -> bytes | None:
        found = obstore.get(self._store, self._key, options=self._options())
        meta: Any = found.meta
        start, stop = self._span or (0, meta["size"])
        self._size, self._e_tag = stop - start, meta["e_tag"] or self._e_tag or ""
        if self._size > at_most:
            return None
        # Each piece as it arrives, so that a later try asks only for what is missing.
        for chunk in found.stream(min_chunk_size=1):
            self._data += chunk
        if len(self._data) != self._size:
            raise EOFError
        return bytes(self._data)

    def _options(self) -> GetOptions:
        options: GetOptions = {}
        if self._span or self._data:
            start, stop = self._span or (0, self._size or 0)
            options["range"] = (start + len(self._data), stop)
        if self._e_tag:
            options["if_match"] = self._e_tag
        return options
