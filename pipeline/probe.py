"""A mark that one machine leaves in storage and another looks for."""

from __future__ import annotations

from pipeline.errors import Refusal
from pipeline.storage.object_store import open_storage

MARK = b"written by jobs/doctor.py, which removes it\n"


def leave_mark(uri: str, name: str) -> str | None:
    """Write a mark and read it back; what went wrong, or None."""
    try:
        storage = open_storage(uri)
        storage.write(_key(name), MARK)
        return None if storage.read(_key(name)) == MARK else "it gave back other bytes"
    except Refusal as refusal:
        return str(refusal)


def find_mark(uri: str, name: str) -> bool:
    """Whether a mark can be read here."""
    try:
        return open_storage(uri).read(_key(name)) == MARK
    except Refusal:
        return False


def remove_mark(uri: str, name: str) -> str | None:
    """Delete a mark; what went wrong, or None."""
    try:
        open_storage(uri).delete(_key(name))
    except Refusal as refusal:
        return str(refusal)
    return None


def _key(name: str) -> str:
    # Readers of a dataset pass over names with an underscore.
    return f"_doctor-{name}"
