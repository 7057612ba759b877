"""Digest of a task's contents that is equal in every process: from values, never from addresses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn


def fingerprint(*values: Any) -> str:
    """Return 24 hex digits of the SHA-256 of values.

    Values are made of numbers, texts, tensors, modules, policies, gates, dataclasses and
    containers of these.

    Raises:
        TypeError: for a value whose contents cannot be read, such as a function.
    """
    digest = hashlib.sha256()
    for piece in _pieces(values):
        # The length before each piece keeps different sequences of pieces from reading the same.
        digest.update(f"{len(piece)}:".encode() + piece)
    return digest.hexdigest()[:24]


def _pieces(value: Any) -> Iterator[bytes]:
    if value is None or (
        isinstance(value, bool | int | float | str) and not isinstance(value, Enum)
    ):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, Tensor):
        yield f"tensor {value.dtype} {tuple(value.shape)}".encode()
        flat = value.detach().cpu().contiguous().flatten()
        yield flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    else:
        yield type(value).__qualname__.encode()
        yield from _inside(value)


def _inside(value: Any) -> Iterator[bytes]:
    if isinstance(value, Enum):
        yield value.name.encode()
    elif isinstance(value, tuple | list):
        yield from _each(value)
    elif isinstance(value, set | frozenset):
        yield from _each(sorted(value, key=repr))
    elif isinstance(value, dict):
        yield from _each(item for key in sorted(value, key=repr) for item in (key, value[key]))
    elif is_dataclass(value):
        yield from _inside({one.name: getattr(value, one.name) for one in fields(value)})
    elif isinstance(value, nn.Module):
        yield from _inside({"spec": getattr(value, "spec", None)} | value.state_dict())
    elif hasattr(value, "__dict__") and not callable(value):
        yield from _inside(vars(value))
    else:
        raise TypeError(
            "A task must be made of records, numbers, texts, tensors and modules. Got "
            f"{value!r:.80}. Leave that value out."
        )


def _each(values: Iterable[Any]) -> Iterator[bytes]:
    items = list(values)
    yield str(len(items)).encode()
    for item in items:
        yield from _pieces(item)
