"""Errors that end a job with one line: exit code 2 for bad input, 1 for work left undone."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.redaction import without_secrets


class InputError(ValueError):
    """Bad input. The message is one line without secrets: what must hold, what was given, how to
    fix it. Nothing was overwritten."""

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(" ".join(message.split())))


class IncompleteError(RuntimeError):
    """Work left undone. The finished part is kept, and the same command resumes from it. The
    message is one line without secrets."""

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(" ".join(message.split())))


class StorageError(InputError):
    """Storage that is missing or refuses access: bad input before the work, a failure during it."""


FULL_OR_BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""Errors of a system call that mean a full or broken disk."""


@contextmanager
def work_errors() -> Iterator[None]:
    """Raise a failure of storage within the block as an IncompleteError: the work has begun, and
    what is finished is kept."""
    fix = "Run the same command again once there is room and access: what is finished is kept."
    try:
        yield
    except StorageError as error:
        raise IncompleteError(f"{error} {fix}") from error
    except OSError as error:
        if error.errno not in FULL_OR_BROKEN:
            raise
        where = error.filename or "the disk"
        raise IncompleteError(
            f"Results must be written to a disk with room. Got an error from {where}: "
            f"{(error.strerror or str(error)).lower()}. {fix}"
        ) from error


@contextmanager
def input_errors() -> Iterator[None]:
    """Raise a ValueError of the block, such as one of a ``__post_init__``, as an InputError."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
