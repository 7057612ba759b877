"""A mark that one machine leaves in storage and another looks for."""

from __future__ import annotations

from pathlib import Path

from pipeline.commit import local_root
from pipeline.door import Refusal

MARK = b"written by jobs/doctor.py, which removes it\n"


def leave_mark(uri: str, name: str) -> str | None:
    """Write a mark and read it back; what went wrong, or None."""
    try:
        path = _place(uri, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MARK)
        return None if path.read_bytes() == MARK else "it gave back other bytes"
    except (OSError, Refusal) as error:
        return str(error)


def find_mark(uri: str, name: str) -> bool:
    """Whether a mark can be read here."""
    try:
        return _place(uri, name).read_bytes() == MARK
    except (OSError, Refusal):
        return False


def remove_mark(uri: str, name: str) -> str | None:
    """Delete a mark; what went wrong, or None."""
    try:
        _place(uri, name).unlink()
    except (OSError, Refusal) as error:
        return str(error)
    return None


def _place(uri: str, name: str) -> Path:
    # Readers of a dataset pass over names with an underscore.
    return local_root(uri) / f"_doctor-{name}"
