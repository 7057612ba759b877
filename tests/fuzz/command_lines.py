"""Command lines from the flag tables of the jobs: odd values, names, repetitions and orders."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from pipeline.evaluate.sweeps.flags import KINDS as SWEEPS
from pipeline.flags.names import Flag, flags_of
from pipeline.flags.values import is_printable
from tests.fuzz.cases import Case

EXCLUDED = {
    "--tracking-uri": "the store's refusals are tested beside MLflow",
    "--experiment": "the store's refusals are tested beside MLflow",
}
"""Flags that get no odd values, with the reason."""
WHOLE = ("0", "1", "-1", "-0", "2", "7", "1000", str(2**31), str(2**63 - 1), str(2**63))
BEYOND = (str(2**64), str(-(2**63) - 1), str(10**20), "9" * 300, "9" * 5000, "-" + "9" * 30)
ODD_NUMBERS = (
    "1e3",
    "1.0",
    "1_000",
    "0x10",
    "\uff11\uff12",
    "\u00bd",
    "+5",
    " 5",
    "5 ",
    "1e20",
    "1,000",
    "--5",
)
REAL = ("0.5", "1/2", "1/3", "-0.0", "1e-320", "5e-324", "0.1", "1.5", "1e6")
NO_NUMBERS = ("nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e308", "-1e308", "1e400", "1/0")
FRACTIONS = ("1/-2", "1/", "/2", "1//2", "1/1e3", "1/" + "9" * 5000, "9" * 400 + "/7")
TEXTS = ("", " ", "\t", "é", "空 空", "a\nb", "a\udcffb", "\u202ex", "\x1b[31mx", "a\0b", "x" * 300)
MARKS = (
    "--",
    "-",
    "---",
    "=",
    "==",
    "a=b",
    ",",
    ",,",
    "1,,2",
    "attn,",
    ",attn",
    ":",
    "/",
    ".",
    "..",
)
NAMES = (
    "None",
    "null",
    "true",
    "False",
    "digits",
    "paced:3",
    "paced:0",
    "paced:99999999",
    "attn,attn",
)
PLACES = (
    "~",
    "~/x",
    "s3://",
    "s3://b/k",
    "gs://b",
    "http://x/y",
    "file:///",
    "file:x",
    "s3:/x",
    "*",
)
CODES = ("{}", "%s", "$HOME", "\\", "'", '"', "`id`", "[]", "{'a': 1}", "x" * 70000, "--help", "-x")
POOL = (
    *WHOLE,
    *BEYOND,
    *ODD_NUMBERS,
    *REAL,
    *NO_NUMBERS,
    *FRACTIONS,
    *TEXTS,
    *MARKS,
    *NAMES,
    *PLACES,
    *CODES,
)
"""Values that are tried for every flag."""
IDLE: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("sample", ("--no-reuse", "--policy=VALID/policy"), "a policy without reuse"),
    ("sample", ("--no-reuse", "--plan=VALID/plan.json"), "a plan without reuse"),
    ("sample", ("--no-reuse", "--no-reference"), "no reference of samples that are references"),
    ("ablations", ("--entropy-quantile=0.3", "--entropy-threshold=2"), "two thresholds"),
    ("threshold", ("--thresholds=1.5,1.5",), "a setting twice"),
    ("threshold", ("--reuse-limits=2,2",), "a setting twice"),
    ("warmup", ("--warmups=0.1,0.1",), "a setting twice"),
    ("layer-fraction", ("--layer-fractions=1/2,0.5",), "a setting twice"),
    ("ablations", ("--ablations=baseline,baseline",), "a setting twice"),
    ("evaluate", ("--methods=interval,interval",), "a method twice"),
    ("train", ("--drop-features=log_gap,log_gap",), "a feature twice"),
    ("train", ("--forecast-orders=0,0",), "an order twice"),
)
"""Flags without effect beside others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The flags of a job, and a command line that it accepts."""

    job: str
    words: tuple[str, ...]
    """First argument of jobs/sweep.py; empty for the other jobs."""
    flags: dict[str, Flag]
    base: tuple[str, ...]
    """Flags that are accepted, each ``--flag=value``."""

    def case(self, given: list[str], note: str, *, is_damaged: bool) -> Case:
        """A case of the job with these flags."""
        args = (*self.words, *given)
        return Case(kind="command line", job=self.job, args=args, note=note, is_damaged=is_damaged)


def tables(valid: Path) -> dict[str, Table]:
    """The flags of every job, by the job's name; those of a sweep by its kind."""
    from pipeline.collect.flags import CollectFlags
    from pipeline.demo.run import DemoConfig
    from pipeline.doctor.config import DoctorConfig
    from pipeline.evaluate.flags import EvaluateFlags
    from pipeline.models.pretrain_config import PretrainFlags
    from pipeline.sample.flags import SampleFlags
    from pipeline.train.flags import TrainFlags

    out = "--out=out"
    rows: list[tuple[str, type, tuple[str, ...]]] = [
        ("collect", CollectFlags, ("--model=digits", out)),
        ("train", TrainFlags, (f"--traces={valid}/traces", out)),
        ("evaluate", EvaluateFlags, ("--model=digits", out, f"--policy={valid}/policy")),
        ("sample", SampleFlags, ("--model=digits", out, "--steps=4")),
        ("pretrain", PretrainFlags, (out,)),
        ("doctor", DoctorConfig, ()),
        ("demo", DemoConfig, (out,)),
    ]
    found = {
        job: Table(job=job, words=(), flags=flags_of(kind), base=base) for job, kind, base in rows
    }
    for word, kind in SWEEPS.items():
        found[word] = Table(job="sweep", words=(word,), flags=flags_of(kind), base=(out,))
    return found


def cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Command lines without end. The valid inputs lie in the folder ``valid`` beside ``folder``."""
    found = tables(folder.parent / "valid")
    everywhere = sorted({name for one in found.values() for name in one.flags})
    for job, flags, note in IDLE:
        given = [flag.replace("VALID", str(folder.parent / "valid")) for flag in flags]
        yield found[job].case([*found[job].base, *given], f"idle flags: {note}", is_damaged=True)
    yield from unchanged(folder.parent / "valid")
    makers = (odd_value, odd_value, odd_value, odd_value, odd_name, odd_order)
    while True:
        yield rng.choice(makers)(rng, rng.choice(list(found.values())), everywhere)


def unchanged(valid: Path) -> list[Case]:
    """A command line of every job that is accepted."""
    return [one.case([*one.base], "unchanged", is_damaged=False) for one in tables(valid).values()]


def odd_value(rng: random.Random, one: Table, everywhere: list[str]) -> Case:
    """A flag with a value of the pool."""
    flag = rng.choice([name for name in one.flags if name not in EXCLUDED])
    value = rng.choice(POOL)
    joined = rng.random() < 0.7
    given = [f"{flag}={value}"] if joined else [flag, value]
    rest = [other for other in one.base if not other.startswith(f"{flag}=")]
    is_damaged = is_wrong(flag, one.flags[flag].kind, value)
    where = rng.randrange(len(rest) + 1)
    line = [*rest[:where], *given, *rest[where:]]
    return one.case(line, f"{flag} with {value[:40]!r}", is_damaged=is_damaged)


def odd_name(rng: random.Random, one: Table, everywhere: list[str]) -> Case:
    """A flag twice, without a value, cut short, misspelt, of another job, or left out."""
    flag = rng.choice(sorted(one.flags))
    other = rng.choice(everywhere)
    is_list = get_origin(one.flags[flag].kind) is list
    longer = [name for name in one.flags if name.startswith(flag[:-1])]
    edits: list[tuple[str, list[str], bool]] = [
        ("twice", [f"{flag}=1", f"{flag}=1"], not is_list),
        ("without a value", [flag], one.flags[flag].kind is not bool),
        ("cut short", [f"{flag[:-1]}=1"], flag[:-1] not in longer),
        ("in capitals", [f"{flag.upper()}=1"], True),
        ("with underscores", [f"--{flag[2:].replace('-', '_')}=1"], "-" in flag[2:]),
        ("with one dash", [f"{flag[1:]}=1"], True),
        ("with three dashes", [f"-{flag}=1"], True),
        ("of another job", [f"{other}=1"], other not in one.flags),
        ("a switch with a value", [f"{flag}=true"], one.flags[flag].kind is bool),
        ("not negated", [f"--no-{flag[2:]}"], f"--no-{flag[2:]}" not in one.flags),
    ]
    note, given, is_damaged = rng.choice(edits)
    required = [name for name, about in one.flags.items() if about.is_required]
    if rng.random() < 0.1 and required:
        gone = rng.choice(required)
        rest = [one for one in one.base if not one.startswith(gone)]
        return one.case(rest, f"without {gone}", is_damaged=True)
    base = [other for other in one.base if not other.startswith(f"{flag}=")]
    return one.case([*base, *given], f"{flag} {note}", is_damaged=is_damaged)


def odd_order(rng: random.Random, one: Table, everywhere: list[str]) -> Case:
    """Stray values, separators and words among the flags, and sweeps of no kind."""
    stray = rng.choice(
        ("x", "--", "-", "", "5", "=", "@file", "\udcff", "-1", "-c", "warmup", "--=1")
    )
    line = [*one.base]
    line.insert(rng.randrange(len(line) + 1), stray)
    if one.words and rng.random() < 0.3:
        args = rng.choice(
            ([stray, *one.base], [*one.base, *one.words], [], [*one.words, *one.words])
        )
        return Case(
            kind="command line",
            job=one.job,
            args=tuple(args),
            note="words",
            is_damaged=stray not in SWEEPS,
        )
    return one.case(line, f"with {stray!r}", is_damaged=True)


def is_wrong(flag: str, kind: Any, value: str) -> bool:
    """Return True for a value that no flag of the kind may take, such as NaN or 2^63 for a number.

    Values that are read as something else by an odd rule, such as 1_000 for 1000, are wrong too.
    """
    if kind is bool or value == "--help":
        return kind is bool
    if (
        not is_printable(value)
        # Several values between commas: an empty text is none of them.
        or not (value.strip() or _is_many(kind))
        or (value.startswith("-") and value[1:2].isalpha())
    ):
        return True
    types = _types(kind)
    if str in types or Path in types or not types & {int, float}:
        return len(value) > 60000
    parts = [part.strip() for part in value.split(",")] if _is_many(kind) else [value.strip()]
    return not all(part == "auto" or _fits(part, float in types) for part in parts)


def _types(kind: Any) -> set[Any]:
    if (get_args(kind) and get_origin(kind) in (UnionType, tuple, list)) or "Union" in str(
        get_origin(kind)
    ):
        return set().union(*(_types(one) for one in get_args(kind)))
    return {kind}


def _is_many(kind: Any) -> bool:
    return get_origin(kind) is tuple or any(get_origin(one) is tuple for one in get_args(kind))


NUMBER = {
    True: re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(/\d+)?", re.ASCII | re.IGNORECASE),
    False: re.compile(r"[+-]?\d+", re.ASCII),
}


def _fits(text: str, is_real: bool) -> bool:
    if not NUMBER[is_real].fullmatch(text):
        return False
    try:
        value = float(Fraction(text)) if is_real else int(text)
    except (ValueError, ArithmeticError):
        return False
    return math.isfinite(value) and abs(value) < (1e30 if is_real else 2**63)
