"""Refusals for the errors of a file system: what happened, and a fix that deletes nothing."""

from __future__ import annotations

import errno
from pathlib import Path

from dqar.regular_file import NotRegularError
from pipeline.errors import StorageError

AGAIN = "then run the command again, which keeps what is done"
PERMISSION = (
    "this user may not read or write it",
    "Give this user the rights of the folder and its files, " + AGAIN,
)
REASONS: dict[int, tuple[str, str]] = {
    errno.EACCES: PERMISSION,
    errno.EPERM: PERMISSION,
    errno.ENOSPC: ("its disk is full", "Free space on that disk, " + AGAIN),
    errno.EDQUOT: ("the disk quota is used up", "Free space or raise the quota, " + AGAIN),
    errno.EROFS: ("its file system is read-only", "Mount it for writing, " + AGAIN),
    errno.EIO: (
        "its disk or network file system failed with an input/output error",
        "Check that disk or mount, " + AGAIN,
    ),
    errno.ESTALE: (
        "its network file system has lost it (stale file handle)",
        "Mount it again, " + AGAIN,
    ),
    errno.EMFILE: ("this process has too many open files", "Raise ulimit -n, " + AGAIN),
    errno.ENFILE: ("this machine has too many open files", "Close some of them, " + AGAIN),
}
"""Words for what happened and what to do, by the number of the error."""
MUST = "Storage must be a folder that can be read and written, with hard links."


def refusal_of(error: OSError, place: Path) -> StorageError:
    """Return the refusal for an error of the file system.

    Args:
        error: the error; the path that it names, if any, is named in the line.
        place: folder of the storage.
    """
    where = error.filename if isinstance(error.filename, str) else place
    if isinstance(error, NotRegularError):
        # A file that is too large may be somebody's data.
        fix = "Check what wrote it" if error.errno == errno.EFBIG else "Move it aside"
        return StorageError(
            f"{where} must be a regular file. Got {error.strerror}. {fix}, then run the command "
            "again."
        )
    if isinstance(error, FileExistsError):
        return StorageError(f"{MUST} Got {place}, which is a file. Name another folder.")
    if isinstance(error, NotADirectoryError):
        return StorageError(f"{MUST} Got {place}, which is a file, or below one. Name another one.")
    reason = (error.strerror or str(error)).lower()
    what, fix = REASONS.get(error.errno or 0, (reason, "Fix the folder, or name another one"))
    return StorageError(f"{MUST} Got an error at {where}: {what}. {fix}.")
