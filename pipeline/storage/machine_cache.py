"""Small texts that are remembered on a machine between runs, so that large files are read once.

The texts stand in ``$XDG_CACHE_HOME/dqar``, or in ``~/.cache/dqar``. A cache that cannot be read or
written costs time and changes no result.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from dqar.regular_file import read_regular

MOST_BYTES = 1 << 28
"""Largest size of a remembered text in bytes."""


def recall(kind: str, key: object) -> str:
    """Return the text remembered for a key; an empty text if there is none.

    Args:
        kind: name of the sub-folder, which keeps texts of different use apart.
        key: value whose ``repr`` names the text.
    """
    with suppress(OSError, UnicodeDecodeError):
        return read_regular(_place(kind, key), MOST_BYTES).decode("ascii")
    return ""


def remember(kind: str, key: object, text: str) -> None:
    """Remember a text for a key; do nothing where the cache cannot be written."""
    with suppress(OSError):
        _write_whole(_place(kind, key), text)


def _place(kind: str, key: object) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "dqar" / kind / hashlib.sha256(repr(key).encode()).hexdigest()


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, delete=False, encoding="ascii"
    ) as stream:
        stream.write(text)
    os.replace(stream.name, path)
