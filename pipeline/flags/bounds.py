"""Ranges of the fields of flags, each with the advice of a refusal."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
INT64 = 2**63 - 1
"""Largest whole number that a tensor, a table or MLflow takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Values that a flag may have."""

    least: int | float
    most: int | float
    usual: Any
    """Value to advise."""
    is_open: bool = False
    """True where the least value itself is refused."""

    def __contains__(self, value: int | float) -> bool:
        # Written so that NaN is refused.
        return self.least <= value <= self.most and not (self.is_open and value == self.least)

    def __str__(self) -> str:
        if self.is_open:
            return f"above {shown(self.least)} and at most {shown(self.most)}"
        return f"from {shown(self.least)} to {shown(self.most)}"


def require_within(flags: Any, ranges: dict[str, Range]) -> None:
    """Refuse fields outside their ranges; a field that is None is left out, and of a tuple each
    value is checked.

    Args:
        flags: instance of a dataclass.
        ranges: range of each field that has one.

    Raises:
        ValueError: one line that names the flag.
    """
    for name, allowed in ranges.items():
        given = getattr(flags, name)
        values = given if isinstance(given, tuple) else () if given is None else (given,)
        if wrong := [value for value in values if value not in allowed]:
            raise ValueError(
                f"{flag_of(name)} must be {allowed}. Got {shown(wrong[0])}. Pass {flag_of(name)} "
                f"{allowed.usual}."
            )


def require_some(flags: Any, *names: str) -> None:
    """Refuse empty tuples; a field that is None is left out.

    Raises:
        ValueError: one line that names the flag.
    """
    for name in names:
        if getattr(flags, name) == ():
            flag = flag_of(name)
            raise ValueError(f"{flag} must hold at least one value. Got none. Leave {flag} out.")


def require_distinct(flags: Any, *names: str) -> None:
    """Refuse tuples that hold a value twice, which would be measured twice.

    Raises:
        ValueError: one line that names the flag and the value.
    """
    for name in names:
        counts = Counter(getattr(flags, name) or ())
        if repeated := [value for value, count in counts.items() if count > 1]:
            raise ValueError(
                f"{flag_of(name)} must name each value once. Got {repeated[0]} "
                f"{counts[repeated[0]]} times. Pass it once."
            )


def require_name(flags: Any, name: str) -> None:
    """Refuse a text that is no name of letters, digits, dots and dashes; None is left out.

    Raises:
        ValueError: one line that names the flag.
    """
    text = getattr(flags, name)
    if text is not None and NAME.fullmatch(text) is None:
        raise ValueError(
            f"{flag_of(name)} must be a name of letters, digits, dots and dashes. Got "
            f"{text[:60]!r}. Correct the name, or leave {flag_of(name)} out."
        )


def flag_of(name: str) -> str:
    """The flag of a field."""
    return f"--{name.replace('_', '-')}"


def shown(value: int | float) -> str:
    """A number in a refusal, shortened where its digits say nothing."""
    if isinstance(value, int) and abs(value) >= 2**70:
        return f"{str(value)[:20]}... of {len(str(value))} digits"
    return str(value) if isinstance(value, int) else f"{value:.15g}"


SEEDS = Range(least=-INT64, most=INT64, usual=0)
"""Random seeds."""
STEPS = Range(least=2, most=100_000, usual=50)
"""Sampling steps; the model's own limit is lower."""
GUIDANCE = Range(least=-1000.0, most=1000.0, usual=4)
"""Scales of guidance; fp16 overflows at larger ones."""
BATCH = Range(least=1, most=2**16, usual=32)
"""Samples that a model gets at a time."""
