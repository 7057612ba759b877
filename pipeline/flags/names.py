"""Names of the flags of a dataclass, and the refusal of unknown, repeated and missing ones."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast, get_origin, get_type_hints

from pipeline.errors import InputError
from pipeline.flags.help import WIDTH, description_of, is_required
from pipeline.flags.values import quoted


class Flag(NamedTuple):
    """One flag of a dataclass."""

    kind: Any
    """Type of the field."""
    is_required: bool


def flags_of(flags: type) -> dict[str, Flag]:
    """The flags of a dataclass, those of nested dataclasses included, by their names."""
    hints = get_type_hints(flags)
    found: dict[str, Flag] = {}
    for field in fields(flags):
        kind = hints[field.name]
        if is_dataclass(kind):
            found |= flags_of(cast(type, kind))
            continue
        found[f"--{field.name.replace('_', '-')}"] = Flag(kind, is_required(field))
    return found


def first_word(kinds: Mapping[str, type], given: list[str], name: str) -> str:
    """The word that chooses among dataclasses of flags.

    Raises:
        InputError: if it is missing or unknown.
        SystemExit: with code 0 after ``--help`` in its place.
    """
    if {"-h", "--help"} & set(given[:1]):
        print(_help_of_words(kinds, name))
        raise SystemExit(0)
    if not given or given[0] not in kinds:
        got = quoted(given[0]) if given else "nothing"
        raise InputError(
            f"The first argument must be one of {', '.join(kinds)}. Got {got}. See {name} --help."
        )
    return given[0]


def refuse_flags_of_other_words(kinds: Mapping[str, type], word: str, given: list[str]) -> None:
    """Refuse flags that belong to another word than the given one.

    Raises:
        InputError: naming the words that the flag belongs to.
    """
    known = {one: flags_of(kind) for one, kind in kinds.items()}
    for flag in (one.partition("=")[0] for one in given):
        others = [one for one in known if flag in known[one]]
        if others and word not in others:
            raise InputError(
                f"{flag} must come with {' or '.join(others)}. Got it with {word}. Leave it out."
            )


def _help_of_words(kinds: Mapping[str, type], name: str) -> str:
    width = max(map(len, kinds))
    texts = {word: description_of(kind).splitlines()[0] for word, kind in kinds.items()}
    margin = " " * (width + 4)
    lines = [
        textwrap.fill(text, WIDTH, initial_indent=f"  {word:{width}}  ", subsequent_indent=margin)
        for word, text in texts.items()
    ]
    usage = f"usage: {name} {{{','.join(kinds)}}} [OPTIONS]"
    return "\n".join([usage, "", *lines, "", f"{name} {next(iter(kinds))} --help lists flags."])


def check_names(known: dict[str, Flag], given: list[str], name: str) -> None:
    """Refuse unknown flags, flags given twice and missing flags.

    tyro lets three cases pass: the last of two values wins, ``_`` stands for ``-``, and a missing
    list is empty. A value that looks like a flag (``--x``, ``-x``) can only be given with ``=``.
    """
    names = [one.partition("=")[0] for one in given if re.match(r"--|-[A-Za-z]", one)]
    for flag in names:
        if flag not in known:
            advice = _with_equals(given, known)
            raise InputError(f"{_unknown(flag, known)}{advice} See {name} --help.")
        if (count := names.count(flag)) > 1 and get_origin(known[flag].kind) is not list:
            raise InputError(f"{flag} must be given once. Got it {count} times. Pass it once.")
    _refuse_separators(given, name)
    missing = [flag for flag, one in known.items() if one.is_required and flag not in names]
    if missing:
        raise InputError(f"{_required(missing)} See {name} --help.")


def _refuse_separators(given: list[str], name: str) -> None:
    """Refuse ``--flag=--``, in which tyro takes the value for the end of the flags."""
    for flag, equals, value in (one.partition("=") for one in given):
        if equals and value == "--":
            raise InputError(f"{flag} must have a value. Got '--'. See {name} --help.")


def _with_equals(given: list[str], known: Mapping[str, Flag]) -> str:
    """Advice about a value that begins with a dash, such as -inf, after the flag that it is for."""
    for flag, value in pairwise(given):
        is_value = re.match(r"-[A-Za-z]", value) and flag in known and known[flag].kind is not bool
        if is_value and value.partition("=")[0] not in known:
            return f" Write a value that begins with a dash as {flag}={value:.40}."
    return ""


def _required(names: list[str]) -> str:
    """``--a, --b and --c are required.``"""
    first, last = ", ".join(names[:-1]), names[-1]
    return f"{first} and {last} are required." if first else f"{last} is required."


def _unknown(flag: str, known: Iterable[str]) -> str:
    names, shown = [one[2:] for one in known], flag if len(flag) <= 80 else f"{flag[:77]}..."
    near = difflib.get_close_matches(flag.strip("-").replace("_", "-"), names, n=1)
    longer = [one for one in known if one.startswith(flag)]
    guess = longer if len(longer) == 1 else [f"--{name}" for name in near]
    return f"There is no flag {shown}." + "".join(f" Did you mean {one}?" for one in guess)
