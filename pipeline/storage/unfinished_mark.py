"""Mark in an output folder that a stage is writing, by which the same command knows it again."""

from __future__ import annotations

from pathlib import Path

from dqar.regular_file import read_regular

MARK = "_unfinished"
"""Name of the file; it holds the name of the file that the stage writes last."""


def is_unfinished(folder: Path, last: str) -> bool:
    """Return True if a run that writes ``last`` at its end was interrupted in a folder."""
    try:
        return read_regular(folder / MARK, 1 << 10) == mark_of(last)
    except OSError:
        return False


def mark_of(last: str) -> bytes:
    """Return the contents of the mark of a run that writes ``last`` at its end."""
    return f"{last}\n".encode()
