"""Errors that end a job with one line: exit code 2 for bad input, 1 for work left undone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input. The message is one line: what must hold, what was given, how to fix it. Nothing
    was overwritten."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class IncompleteError(RuntimeError):
    """Work left undone. The finished part is kept, and the same command resumes from it."""


class StorageError(InputError):
    """Storage that is missing or refuses access: bad input before the work, a failure during it."""


def without_secrets(text: str) -> str:
    """Return a line to print, without the text before the @ of a URI, which may be a password."""
    return re.sub(r"//\S*@", "//...@", text)


@contextmanager
def input_errors() -> Iterator[None]:
    """Raise a ValueError of the block, such as one of a ``__post_init__``, as an InputError."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
