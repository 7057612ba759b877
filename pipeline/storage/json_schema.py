"""JSON documents in storage: parsing, validation by a dataclass, types of their fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from dqar.foreign_files import parse_json
from dqar.validation import validate

T = TypeVar("T")

Count = Annotated[int, Field(ge=0)]
"""A whole number from 0; :func:`check` refuses those beyond 2^63 - 1."""


class Malformed(ValueError):
    """A document that is not what it must be: which field, and what it must be."""


def text_like(said: str, pattern: str) -> AfterValidator:
    """Return the validator of a text that matches a pattern; ``said`` names such texts."""

    def matching(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise PydanticCustomError("text_like", "{said}", {"said": said})
        return value

    return AfterValidator(matching)


def parse(data: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        Malformed: if the bytes are something else.
    """
    try:
        document = parse_json(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"It must be JSON. Got: {str(error)[:100]}.") from error
    if not isinstance(document, dict):
        raise Malformed(f"It must be a JSON object. Got a {type(document).__name__}.")
    return document


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def check(document: Any, kind: type[T], *, extra: Literal["ignore", "forbid"] = "ignore") -> T:
    """Return a document as an instance of a dataclass.

    Raises:
        Malformed: one line that names the first field that is wrong.
    """
    try:
        return validate(document, kind, fix="", extra=extra)
    except ValueError as error:
        raise Malformed(str(error)) from error
