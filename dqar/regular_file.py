"""Opening of files that must be regular: a pipe would never end, and a device has no size."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

DOCUMENT_BYTES = 1 << 24
"""Bytes of the largest document that is read whole, unless the reader names another limit."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegularError(OSError):
    """Path of a folder, pipe, socket or device, of a link to nothing, or of a file that is larger
    than its reader allows; ``strerror`` says which."""


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises:
        FileNotFoundError: if nothing has that name.
        NotRegularError: if something else has it.
    """
    try:
        # O_NONBLOCK: a named pipe without a writer would wait for one.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        refuse_other_kinds(path)
        raise error
    try:
        _refuse(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, at_most: int = DOCUMENT_BYTES) -> bytes:
    """Return the contents of a regular file of at most ``at_most`` bytes.

    Raises:
        FileNotFoundError: if nothing has that name.
        NotRegularError: if something else has it, or a larger file.
    """
    with open_regular(path) as stream:
        _refuse(path, os.fstat(stream.fileno()), at_most)
        return stream.read()


def refuse_other_kinds(path: Path, at_most: int | None = None) -> os.stat_result:
    """Return the facts about a regular file, or a link to one, without opening it.

    Raises:
        FileNotFoundError: if nothing has that name.
        NotRegularError: if something else has it, or a file of more than ``at_most`` bytes.
    """
    try:
        about = path.stat()
    except OSError as error:
        if path.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP):
            raise NotRegularError(error.errno, "a link to nothing", str(path)) from error
        raise
    _refuse(path, about, at_most)
    return about


def _refuse(path: Path, about: os.stat_result, at_most: int | None = None) -> None:
    if not stat.S_ISREG(about.st_mode):
        kind = KINDS.get(stat.S_IFMT(about.st_mode), "no file")
        raise NotRegularError(errno.EINVAL, kind, str(path))
    if at_most is not None and about.st_size > at_most:
        raise NotRegularError(errno.EFBIG, f"a file of more than {at_most} bytes", str(path))
