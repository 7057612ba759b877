"""What a JSON value must be: kinds of values, lists of one shape, objects of shapes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LARGEST = 2**63 - 1


class Malformed(ValueError):
    """A document that is not what it must be: which field, and what it must be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What one value must be."""

    said: str
    """In words."""
    holds: Callable[[Any], bool]
    """Whether a value is it."""
    may_lack: bool = False
    """Whether the field may be left out."""


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_number(value: Any) -> bool:
    # An integer too large for a float is compared, not converted.
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST and math.isfinite(value)


def text_kind(said: str, pattern: str, *, may_lack: bool = False) -> Kind:
    def holds(value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(pattern, value) is not None

    return Kind(said=said, holds=holds, may_lack=may_lack)


COUNT = Kind(said="a whole number from 0 to 2^63", holds=_is_count)
NUMBER = Kind(said="a finite number", holds=_is_number)
TEXT = Kind(said="text", holds=lambda value: isinstance(value, str))
WHOLE = Kind(
    said="a whole number", holds=lambda value: type(value) is int and -LARGEST <= value <= LARGEST
)
NUMBERS = Kind(
    said="an object of numbers",
    holds=lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
)


def one_of(*values: str) -> Kind:
    """One of some words."""
    return Kind(said=f"one of {', '.join(values)}", holds=lambda value: value in values)


def parse(data: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Malformed: if it is something else.
    """
    try:
        document = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"must be JSON, which it is not: {str(error)[:100]}") from error
    if not isinstance(document, dict):
        raise Malformed(f"must be a JSON object, not {type(document).__name__}")
    return document


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def check(value: Any, shape: Any, where: str = "it") -> None:
    """Compare a value with a shape: a :class:`Kind`, a list of one shape, or an object of shapes.

    Raises:
        Malformed: naming the first field that differs.
    """
    if isinstance(shape, Kind):
        if not shape.holds(value):
            raise Malformed(f"must hold {shape.said} in {where}, not {_shown(value)}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise Malformed(f"must hold a list in {where}, not {_shown(value)}")
        for index, item in enumerate(value):
            check(item, shape[0], f"{where}[{index}]")
    else:
        _check_object(value, shape, where)


def _check_object(value: Any, shape: dict[str, Any], where: str) -> None:
    if not isinstance(value, dict):
        raise Malformed(f"must hold an object in {where}, not {_shown(value)}")
    for name, inner in shape.items():
        if name in value:
            check(value[name], inner, name if where == "it" else f"{where}.{name}")
        elif not (isinstance(inner, Kind) and inner.may_lack):
            raise Malformed(f"must hold {name} in {where}")


def _shown(value: Any) -> str:
    try:
        return repr(value)[:60]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"
