"""The command line of every job: one parser style, one line for bad input, exit code 2."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NoReturn, TypeVar, get_args

import tyro

from pipeline.errors import IncompleteError, InputError

F = TypeVar("F")

BAD_INPUT = 2
"""Exit code of a job that was given something it cannot work with."""
UNFINISHED = 1
"""Exit code of a job that left work undone, as of one that met a bug."""
AUTO = "auto"
"""A size that is to be measured."""


class JobParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose help shows the defaults."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """One line on stderr, then exit code 2."""
        line = " ".join(message.split())
        self.exit(BAD_INPUT, f"{self.prog}: {line}. See {self.prog} --help.\n")


def enter(parser: JobParser, run: Callable[[argparse.Namespace], int]) -> int:
    """Parse, run, and turn a :class:`InputError` into one line and exit code 2, work that was left
    undone into its lines and exit code 1."""
    arguments = parser.parse_args()
    try:
        return run(arguments)
    except (InputError, IncompleteError) as ended:
        print(f"{parser.prog}: {ended}", file=sys.stderr, flush=True)
        return BAD_INPUT if isinstance(ended, InputError) else UNFINISHED


def add_cluster_flags(parser: JobParser) -> None:
    """What a stage that runs on workers asks of the cluster."""
    parser.add_argument("--workers", type=int, default=0, help="workers; 0: one a GPU, or a CPU")
    parser.add_argument(
        "--gpus-per-worker", type=float, default=0.0, help="GPU share; 0: a whole one, if any"
    )
    parser.add_argument(
        "--accelerator-type", help="Ray accelerator type, such as A100, or A100-80G where labelled"
    )
    parser.add_argument(
        "--wait-minutes",
        type=float,
        help="for how long to be without any worker; default: as long as nodes may come",
    )
    parser.add_argument(
        "--unit-minutes",
        type=float,
        default=60.0,
        help="a worker that takes longer over one unit is taken for hung, and killed",
    )


def add_tracking_flags(parser: JobParser) -> None:
    """Where a stage is tracked."""
    parser.add_argument(
        "--tracking-uri", help="MLflow store; default MLFLOW_TRACKING_URI, else ./mlflow.db"
    )
    parser.add_argument("--experiment", default="dqar", help="MLflow experiment")


def split_names(text: str) -> tuple[str, ...]:
    """``"attn,ff"`` to ``("attn", "ff")``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    """``"0,1,2"`` to ``(0, 1, 2)``.

    Raises:
        InputError: if something else stands between the commas.
    """
    numbers = split_names(text)
    if not all(number.isdecimal() for number in numbers):
        raise InputError(f"{flag} must be whole numbers. Got {text!r}. Pass 0,1,2.")
    return tuple(map(int, numbers))


def gains(flag: str, text: str) -> tuple[float, ...]:
    """``"0,0.5"`` to ``(0.0, 0.5)``.

    Raises:
        InputError: if something else stands between the commas.
    """
    try:
        return tuple(map(float, split_names(text)))
    except ValueError:
        raise InputError(f"{flag} must be numbers from 0 to 1. Got {text!r}. Pass 0,0.5.") from None


def size_or_auto(text: str) -> int | str:
    """``"48"`` to 48, ``"auto"`` to itself: the type of a flag.

    Raises:
        ValueError: for anything else.
    """
    return AUTO if text == AUTO else int(text)


def run_job(
    flags: type[F], run: Callable[[F], int], *, name: str, args: Sequence[str] | None = None
) -> int:
    """Parse a job's flags from a dataclass and run the job.

    The docstring of the dataclass is the description in ``--help``; the docstring under a field is
    the help of its flag, and the field's default is the flag's. Fields of nested dataclasses are
    flags of the same name. Fields of type ``tuple[X, ...]`` are given with commas
    (``--sites attn,ff``), fields of type ``list[X]`` by repeating the flag.

    Args:
        flags: dataclass of the flags.
        run: the job; gets an instance of ``flags`` and returns the exit code.
        name: name of the job in its messages, such as ``collect.py``.
        args: arguments to parse; None for those of the process.

    Returns:
        The exit code: the job's own, 2 after one line for bad input, 1 after one line for work
        that was left undone.
    """
    try:
        return run(parse_flags(flags, name=name, args=args))
    except (InputError, IncompleteError) as ended:
        print(f"{name}: {ended}", file=sys.stderr, flush=True)
        return BAD_INPUT if isinstance(ended, InputError) else UNFINISHED


def parse_flags(flags: type[F], *, name: str, args: Sequence[str] | None = None) -> F:
    """An instance of a dataclass of flags from the command line.

    Raises:
        InputError: if a flag is unknown, missing or refused.
        SystemExit: with code 0 after ``--help``.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                flags, prog=name, args=args, config=FLAG_STYLE, registry=_comma_registry()
            )
    except SystemExit as ended:
        if ended.code != BAD_INPUT:
            raise
        raise InputError(f"{_first_panel(printed.getvalue())} See {name} --help.") from None


FLAG_STYLE = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.UseAppendAction,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.DisallowNone,
)
"""Flat flags; a repeated flag appends; a switch has no negative; ``None`` cannot be typed."""


def _first_panel(text: str) -> str:
    """The message of tyro's error panel in one line, without the frame and the flags' help."""
    lines = [line.strip("│ ") for line in text.splitlines() if line[:1] == "│"]
    message = takewhile(lambda line: not line.startswith("──"), lines)
    return " ".join(" ".join(message).split()).rstrip(".") + "."


def _comma_registry() -> tyro.constructors.ConstructorRegistry:
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_comma_rule)
    return registry


def _comma_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Values between commas for ``tuple[X, ...]``: ``0,1,2`` for ``tuple[int, ...]``."""
    if info.type_origin is not tuple or get_args(info.type)[1:] != (Ellipsis,):
        return None
    item = get_args(info.type)[0]
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar={int: "0,1,...", float: "0.1,0.5,..."}.get(item, "NAME,NAME,..."),
        instance_from_str=lambda given: tuple(map(item, split_names(given[0]))),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )
