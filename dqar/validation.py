"""Validation of values read from a file: typed, or one line that names the wrong field.

pydantic fills the dataclass that owns the values; it is imported when the first file is read.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, reduce
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_type_hints

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import ErrorDetails

T = TypeVar("T")
Keys = tuple[str | int, ...]

FIX = "Fix the value."
"""Advice about a value of a wrong kind, where the caller has none."""
LARGEST = 2**63 - 1
"""The largest whole number that a tensor or a table takes."""

KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list such as [a, b]",
    "list_type": "a list such as [a, b]",
    "dict_type": "keys with values",
    "dataclass_type": "keys with values",
}
"""Required kind of value, by pydantic's error type; its own message says all others."""

UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
"""pydantic's error types of a key that names no field."""

NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", re.IGNORECASE)
QUOTED = "Write a number without quotes; YAML reads 1.0e-3 as a number and 1e-3 as text."


def validate(
    value: Any,
    kind: type[T],
    *,
    name: str = "",
    fix: str = FIX,
    extra: Literal["ignore", "forbid"] = "ignore",
    is_finite: bool = True,
) -> T:
    """Return an instance of a dataclass, filled without conversions.

    A whole number may stand for a real one, and a list for a tuple; nothing else is converted.

    Args:
        value: JSON values by name; what JSON cannot hold counts as its text.
        kind: a dataclass; its fields may be dataclasses.
        name: the file, for the line.
        fix: advice about a value of a wrong kind.
        extra: ``forbid`` refuses keys that name no field.
        is_finite: True refuses infinite numbers.

    Raises:
        ValueError: one line that names the file, the field, what it must be, what was got, the fix.
    """
    from pydantic import ValidationError

    text = _as_json(value, name, fix, is_finite)
    try:
        read = _adapter(kind).validate_json(text, strict=True, extra=extra)
    except ValidationError as error:
        raise ValueError(describe(error, value, kind, name, fix)) from error
    if (keys := _find_rounded(value, read)) is not None:
        raise _refusal(name, keys, "a whole number", _at(value, keys), fix)
    return read


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _as_json(value: Any, name: str, fix: str, is_finite: bool) -> str:
    try:
        keys = _find_beyond(value, is_finite)
        if keys is None:
            return json.dumps(value, default=str, skipkeys=True)
    except RecursionError:
        raise ValueError(f"{place(name, ())} must be nested less deeply. {fix}") from None
    beyond = _at(value, keys)
    must_be = "a finite number" if isinstance(beyond, float) else "a number of at most 2^63 - 1"
    raise _refusal(name, keys, must_be, beyond, fix)


def _find_beyond(value: Any, is_finite: bool) -> Keys | None:
    """Return the keys of the first number that is too large for a tensor, or not a number."""
    for key, item in _items(value):
        if (found := _find_beyond(item, is_finite)) is not None:
            return (key, *found)
    if isinstance(value, float):
        return () if math.isnan(value) or (is_finite and math.isinf(value)) else None
    return () if isinstance(value, int) and abs(value) > LARGEST else None


def _find_rounded(given: Any, read: Any) -> Keys | None:
    """Return the keys of the first 8.0 that was read as 8, which pydantic does for a Literal."""
    if read is None:  # a key that was ignored
        return None
    for key, item in _items(given):
        inner = getattr(read, str(key), None) if is_dataclass(read) else read[key]
        if (found := _find_rounded(item, inner)) is not None:
            return (key, *found)
    return () if type(given) is float and type(read) is int else None


def _items(value: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(value, list):
        return enumerate(value)
    return value.items() if isinstance(value, dict) else ()


def _at(value: Any, keys: Keys) -> Any:
    return reduce(lambda inner, key: inner[key], keys, value)


def describe(error: ValidationError, value: Any, kind: type, name: str, fix: str) -> str:
    """Return one line about the first field that was refused; see :func:`validate`."""
    errors = error.errors(include_url=False)
    first, keys = errors[0], _keys(errors[0], value)
    where, raised = place(name, keys), first.get("ctx", {}).get("error")
    if isinstance(raised, ValueError):  # by the dataclass itself
        return " ".join(f"{where}: {raised}".removeprefix("It: ").split())
    if first["type"] == "json_invalid":  # half of a surrogate pair, or deep nesting
        return f"{where} must be Unicode text, nested less deeply. Got: {first['msg']}. {fix}"
    if first["type"].startswith("missing"):
        advice = "Add the key." if fix == FIX else fix
        return f"{where} must hold {first['loc'][-1]!r}. Got no such key. {advice}".rstrip()
    if first["type"] in UNKNOWN:
        return f"{where} must have known keys. {_nearest(first['loc'][-1], _names_at(kind, keys))}"
    # Each member of a union has its own error at the same place.
    kinds = " or ".join({_kind(one): None for one in errors if _keys(one, value) == keys})
    got = first["input"]
    is_quoted = isinstance(got, str) and "number" in kinds and NUMBER.fullmatch(got)
    return str(_refusal(name, keys, kinds, got, QUOTED if is_quoted else fix))


def place(name: str, keys: Sequence[str | int]) -> str:
    """Return the file and the place in it, such as ``plan.json: files[0].bytes``."""
    steps = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return ": ".join(filter(None, (name, "".join(steps).removeprefix(".")))) or "It"


def shown(value: object) -> str:
    """Return a value as text of bounded length."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python spells no whole number of thousands of digits
        return "a number of thousands of digits"


def _refusal(name: str, keys: Keys, must_be: str, got: object, fix: str) -> ValueError:
    return ValueError(f"{place(name, keys)} must be {must_be}. Got {shown(got)}. {fix}".rstrip())


def _nearest(given: object, names: list[str]) -> str:
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.0)
    hint = f"The nearest is {close[0]!r}; all are {', '.join(names)}." if close else "Remove it."
    return f"Got {shown(given)}. {hint}"


def _kind(error: ErrorDetails) -> str:
    return KINDS.get(error["type"], error["msg"].removeprefix("Input should be "))


def _keys(error: ErrorDetails, value: Any) -> Keys:
    """Return the keys that lead to an error, without an unknown or missing key itself and without
    the members of a union, which pydantic appends."""
    found: Keys = ()
    for key in error["loc"]:
        if not (key in value if isinstance(value, dict) else isinstance(key, int)):
            break
        value = value[key]
        found = (*found, key)
    return found[:-1] if error["type"] in UNKNOWN else found


def _names_at(kind: Any, keys: Keys) -> list[str]:
    """Return the fields of the dataclass at a place; none where a list leads there."""
    for key in keys:
        hint = get_type_hints(kind)[key] if is_dataclass(kind) and isinstance(key, str) else None
        kind = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
    return [entry.name for entry in fields(kind)] if is_dataclass(kind) else []
