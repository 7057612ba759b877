"""Values of command-line flags by the type of their field: how each is named, read and shown."""

from __future__ import annotations

import re
import types
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
NUMBER = re.compile(
    r"[+-]?(inf|infinity|(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|\d+/\d+)", re.ASCII | re.IGNORECASE
)
"""Numbers as they are written here; Python reads ``1_000`` and digits of other scripts too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueKind:
    """One type of value: its placeholder in the help, and its reader."""

    metavar: str
    """Placeholder in ``--help``, such as ``INT``."""
    expected: str
    """Noun phrase for "must be ...", such as ``a whole number``."""
    read: Callable[[str], Any]
    """From text to value; raises ValueError for other text."""

    def parse(self, text: str) -> Any:
        """The value of a text.

        Raises:
            ValueError: saying what the text must be; the caller puts the flag's name before.
        """
        try:
            return self.read(text)
        except (ValueError, ArithmeticError):
            raise ValueError(f"must be {self.expected}. Got {quoted(text)}.") from None


def split_names(text: str) -> tuple[str, ...]:
    """``"attn,ff"`` and ``"attn,ff,"`` to ``("attn", "ff")``, and an empty text to ``()``.

    Raises:
        ValueError: if nothing stands between two commas.
    """
    names = [name.strip() for name in text.strip().removesuffix(",").split(",")]
    if names == [""]:
        return ()
    if not all(names):
        raise ValueError(text)
    return tuple(names)


def as_text(value: Any) -> str:
    """The text that the help shows for a value, which :func:`kind_of` reads back as that value.

    Example: ``0,1`` for ``(0, 1)``, ``1/3`` for 0.333...
    """
    if isinstance(value, tuple):
        return ",".join(map(as_text, value))
    if not isinstance(value, float) or float(f"{value:.4g}") == value:
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    fraction = Fraction(value).limit_denominator(1000)
    return str(fraction) if float(fraction) == value else repr(value)


def quoted(text: str) -> str:
    """A text in quotes for a refusal, without what follows its first 80 characters."""
    return repr(text) if len(text) <= 80 else f"{text[:77]!r} and {len(text) - 77} more characters"


def is_printable(text: str) -> bool:
    """Return True for a text without control characters, line separators and lone surrogates, as
    which Python reads bytes that are no UTF-8."""
    return all(unicodedata.category(one) not in ("Cc", "Cs", "Zl", "Zp") for one in text)


def read_whole(text: str) -> int:
    """``"12"`` to 12.

    Raises:
        ValueError: for other text, such as ``1_000`` or digits of another script.
    """
    if not WHOLE.fullmatch(text.strip()):
        raise ValueError(text)
    return int(text)


def read_number(text: str) -> float:
    """``"0.5"`` to 0.5, and ``"1/3"`` to 0.333...

    Raises:
        ValueError: for other text, NaN included.
        ArithmeticError: for ``"1/0"`` and fractions beyond the floating-point numbers.
    """
    if not NUMBER.fullmatch(text.strip()):
        raise ValueError(text)
    return float(Fraction(text)) if "/" in text else float(text)


def read_text(text: str) -> str:
    """The text itself.

    Raises:
        ValueError: if the text is blank, which would name the working folder or no file at all, or
            holds characters that cannot be printed, such as line breaks and bytes that are no
            UTF-8: logs, JSON and MLflow cannot repeat them.
    """
    if not text.strip() or not is_printable(text):
        raise ValueError(text)
    return text


SIMPLE = {
    str: ValueKind(metavar="TEXT", expected="printable text that is not empty", read=read_text),
    Path: ValueKind(
        metavar="PATH",
        expected="a printable path that is not empty",
        read=lambda text: Path(read_text(text)),
    ),
    int: ValueKind(metavar="INT", expected="a whole number", read=read_whole),
    float: ValueKind(metavar="NUMBER", expected="a number", read=read_number),
}
LISTS = {
    str: ("NAME,NAME,...", "names with commas between them"),
    int: ("INT,INT,...", "whole numbers with commas between them, such as 0,1,2"),
    float: ("NUMBER,NUMBER,...", "numbers with commas between them, such as 0,0.5"),
}
"""Placeholder and noun phrase of several values between commas."""


def kind_of(annotation: Any) -> ValueKind | None:
    """The kind of value of a field's type; None for a type that is left to tyro.

    ``X | None`` is read as ``X``: None is the default alone and cannot be typed.
    """
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _choice(arguments)
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return _between_commas(arguments[0])
    if origin in (Union, types.UnionType):
        return _either([one for one in arguments if one is not types.NoneType])
    return None


def _choice(values: tuple[Any, ...]) -> ValueKind:
    """One of the values of a Literal, in their order in the source."""
    by_text = {str(value): value for value in values}

    def read(text: str) -> Any:
        if text not in by_text:
            raise ValueError(text)
        return by_text[text]

    names = ", ".join(by_text)
    expected = f"one of {names}" if len(by_text) > 1 else names
    return ValueKind(metavar=f"{{{','.join(by_text)}}}", expected=expected, read=read)


def _between_commas(annotation: Any) -> ValueKind | None:
    """Values between commas: ``0,1,2`` for ``tuple[int, ...]``; empty text for none."""
    if (item := kind_of(annotation)) is None:
        return None
    fallback = (f"{item.metavar},...", f"{item.expected}, or several with commas between them")
    metavar, expected = LISTS.get(annotation, fallback)
    return ValueKind(
        metavar=metavar,
        expected=expected,
        read=lambda text: tuple(item.read(part) for part in split_names(text)),
    )


def _either(annotations: list[Any]) -> ValueKind | None:
    """The first of several kinds that can read the text."""
    kinds = [kind for annotation in annotations if (kind := kind_of(annotation)) is not None]
    if len(kinds) < len(annotations) or len(kinds) < 2:
        return kinds[0] if len(kinds) == len(annotations) == 1 else None

    def read(text: str) -> Any:
        for kind in kinds[:-1]:
            try:
                return kind.read(text)
            except (ValueError, ArithmeticError):
                continue
        return kinds[-1].read(text)

    return ValueKind(
        metavar="|".join(kind.metavar.strip("{}") for kind in kinds),
        expected=" or ".join(kind.expected for kind in kinds),
        read=read,
    )
