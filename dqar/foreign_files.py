"""Files that anyone may have written: bounded in size, never blocking, read without their content
being trusted."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqar.regular_file import NotRegularError, open_regular, read_regular, refuse_other_kinds
from dqar.validation import shown

MAX_HEADER_BYTES = 16 * 2**20
"""Largest header of a safetensors file; one with 1,000 tensors takes a hundredth of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor of a safetensors file, without its values."""

    dtype: str
    """Name of the dtype in the file, such as ``F32``."""
    shape: tuple[int, ...]
    """Size of each dimension."""


def read_json(path: Path, *, what: str, fix: str, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object in a file, unchecked.

    Raises:
        ValueError: one line, if the file cannot be read, is larger than ``max_bytes``, repeats a
            key or is other JSON.
    """
    try:
        return read_object(path, max_bytes=max_bytes)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{spelled(path)} must be {what}'s JSON. Got: {error!s:.300}. {fix}"
        ) from error


def read_object(path: Path, *, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object in a file, for callers that word their own refusal.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is too large, repeats a key or is other JSON.
        RecursionError: if it is nested too deeply.
    """
    stored = parse_json(read_text(path, max_bytes=max_bytes))
    if not isinstance(stored, dict):
        raise ValueError(f"a {type(stored).__name__} in place of an object")
    return stored


def spelled(name: str | Path) -> str:
    """Return a name or path for a message: printable, and of at most some hundred characters."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 300 else ascii(text[:300])


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Parse JSON in which no object repeats a key; :mod:`json` alone takes the last of them.

    Args:
        text: the JSON.
        options: further arguments of ``json.loads``.

    Raises:
        ValueError: if it is no JSON, or an object repeats a key.
        RecursionError: if it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_without_repeats, **options)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {shown(counts.most_common(1)[0][0])} more than once")
    return found


def read_text(path: Path, *, max_bytes: int) -> str:
    """Return the UTF-8 text of a regular file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is larger than ``max_bytes``, of another kind or no UTF-8.
    """
    with _in_place_of_a_file(path):
        return read_regular(path, max_bytes).decode()


def require_file(path: Path, *, max_bytes: int | None = None) -> int:
    """Return the size in bytes of a regular file, which is not opened.

    Raises:
        OSError: if there is nothing at the path, or it may not be looked at.
        ValueError: if the file is of another kind, or larger than ``max_bytes``.
    """
    with _in_place_of_a_file(path):
        return refuse_other_kinds(path, max_bytes).st_size


@contextmanager
def _in_place_of_a_file(path: Path) -> Iterator[None]:
    try:
        yield
    except NotRegularError as error:
        raise ValueError(f"{error.strerror} in place of the file {path.name}") from error


def read_tensors(
    path: Path, *, max_header_bytes: int = MAX_HEADER_BYTES
) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file by name, without their values.

    safetensors has checked then that the file holds exactly the bytes of these shapes.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no safetensors file, or its header is too large.
    """
    from safetensors import SafetensorError, safe_open

    with _in_place_of_a_file(path), open_regular(path) as stream:
        start = stream.read(8)
    if len(start) < 8:
        raise ValueError(f"only {len(start)} bytes in {path.name}")
    if (size := struct.unpack("<Q", start)[0]) > max_header_bytes:
        raise ValueError(f"a header of {size} bytes in {path.name}, more than {max_header_bytes}")
    try:
        with safe_open(path, framework="pt") as opened:
            names = list(opened.keys())
            slices = {name: opened.get_slice(name) for name in names}
            return {
                name: StoredTensor(dtype=one.get_dtype(), shape=tuple(one.get_shape()))
                for name, one in slices.items()
            }
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path.name} is no safetensors file: {error!s:.200}") from error
