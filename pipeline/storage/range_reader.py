"""Seekable file over range requests: only the bytes that are read are fetched."""

from __future__ import annotations

import io
import os
from collections.abc import Callable


class Ranges(io.RawIOBase):
    """Read-only file of an object; a Parquet reader of some columns fetches no other columns."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        """
        Args:
            fetch: returns the bytes from a start up to, not including, an end.
            size: number of bytes of the object.
        """
        self._fetch, self._size = fetch, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer) -> int:
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        data = self._fetch(self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
