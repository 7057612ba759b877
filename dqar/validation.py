"""Validation of what is read from a file: typed values, or one line that names the wrong field.

pydantic fills the dataclass that owns the values; it is imported when the first file is read.
"""

from __future__ import annotations

import difflib
import json
import re
import reprlib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_type_hints

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

T = TypeVar("T")

UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
"""pydantic's error types of a key that names no field."""

KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list such as [a, b]",
    "list_type": "a list such as [a, b]",
    "dict_type": "keys with values",
    "dataclass_type": "keys with values",
    "model_type": "keys with values",
}
"""Required kind of value, by pydantic's error type."""

NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", re.IGNORECASE)
QUOTED = "Write a number without quotes; YAML reads 1.0e-3 as a number and 1e-3 as text."


def validate_json(
    data: str | bytes,
    kind: type[T],
    *,
    name: str,
    fix: str = "Fix the value.",
    extra: Literal["ignore", "forbid"] = "ignore",
) -> T:
    """Return an instance of a dataclass, filled from a JSON object without conversions.

    A whole number may stand for a real one, and a list for a tuple; nothing else is converted.

    Args:
        data: JSON text.
        kind: a dataclass; its fields may be dataclasses.
        name: file that is read.
        fix: advice about a value of a wrong kind.
        extra: ``forbid`` refuses keys that name no field.

    Raises:
        ValueError: one line that names the file, the field, what it must be, what was got, the fix.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(data, strict=True, extra=extra)
    except ValidationError as error:
        raise ValueError(describe(error, data, kind, name, fix)) from error


def describe(error: ValidationError, data: str | bytes, kind: type, name: str, fix: str) -> str:
    """Return one line about the first field that was refused; see :func:`validate_json`."""
    first, *others = error.errors(include_url=False)
    kind_of_error, last = first["type"], first["loc"][-1:]
    if kind_of_error == "json_invalid":
        return f"{name} must be JSON. Got: {first['msg'].removeprefix('Invalid JSON: ')}. {fix}"
    keys = _keys(first, data)
    where = place(name, keys)
    if raised := first.get("ctx", {}).get("error"):  # by the dataclass itself
        return f"{where}: {' '.join(str(raised).split())}"
    if kind_of_error.startswith("missing"):
        return f"{where} must hold {last[0]!r}. Got no such key. Add it."
    if kind_of_error in UNKNOWN:
        return f"{where} must have known keys. {_nearest(last[0], _names_at(kind, keys))}"
    # Each member of a union has its own error at the same place.
    of_one_place = [first, *(other for other in others if _keys(other, data) == keys)]
    kinds = " or ".join(dict.fromkeys(map(_kind, of_one_place)))
    is_quoted = "number" in kinds and NUMBER.fullmatch(str(first["input"]))
    return f"{where} must be {kinds}. Got {shown(first['input'])}. {QUOTED if is_quoted else fix}"


def place(name: str, keys: Sequence[str | int]) -> str:
    """Return the file and the place in it, such as ``plan.json: files[0].bytes``."""
    steps = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return f"{name}: {''.join(steps).removeprefix('.')}" if keys else name


def shown(value: object) -> str:
    """Return a value as text of bounded length."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python spells no whole number of thousands of digits
        return "a number of thousands of digits"


def _nearest(given: object, names: list[str]) -> str:
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.0)
    hint = f"The nearest is {close[0]!r}; all are {', '.join(names)}." if close else "Remove it."
    return f"Got {shown(given)}. {hint}"


def _kind(error: ErrorDetails) -> str:
    return KINDS.get(error["type"], error["msg"].removeprefix("Input should be "))


def _keys(error: ErrorDetails, data: str | bytes) -> list[str | int]:
    """Return the keys that lead to an error, without an unknown or missing key itself and without
    the members of a union, which pydantic appends."""
    value: Any = json.loads(data)
    found: list[str | int] = []
    for key in error["loc"]:
        if not (key in value if isinstance(value, dict) else isinstance(key, int)):
            break
        value = value[key]
        found.append(key)
    return found[:-1] if error["type"] in UNKNOWN else found


def _names_at(kind: Any, keys: list[str | int]) -> list[str]:
    """Return the fields of the dataclass at a place; none where a list leads there."""
    for key in keys:
        hint = get_type_hints(kind)[key] if is_dataclass(kind) and isinstance(key, str) else None
        kind = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
    return [entry.name for entry in fields(kind)] if is_dataclass(kind) else []
