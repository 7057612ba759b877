"""Errors that end a job with one line: exit code 2 for bad input, 1 for work left undone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """Bad input: what is wrong and how to mend it, in one line. Nothing was overwritten."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class IncompleteError(RuntimeError):
    """Some of the work is not done; what is done is kept, and the same command goes on from it."""


class StorageError(InputError):
    """Storage that did not answer as it should: bad input at first, later a failure like others."""


def without_secrets(text: str) -> str:
    """A line to print: what stands before the @ of a URI may be a password."""
    return re.sub(r"//\S*@", "//...@", text)


def checked(build: Callable[..., T], **fields: object) -> T:
    """Build a configuration; what its ``__post_init__`` refuses becomes a :class:`InputError`."""
    try:
        return build(**fields)
    except ValueError as error:
        raise InputError(str(error)) from error
