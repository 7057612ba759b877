"""The command line of every job: flags from a dataclass, one line and exit code 2 for bad input."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar, cast, get_origin, get_type_hints

import tyro

# A private module of tyro, whose version is therefore bounded in pyproject.toml. Its public
# alternative is to read the messages back from panels wrapped at the width of the terminal.
from tyro._errors import (
    BadValue,
    InstantiationFailure,
    ParseErrorEvent,
    UnrecognizedArgs,
    on_parse_error,
)

from pipeline.errors import IncompleteError, InputError
from pipeline.flag_help import description_of, field_texts, hint_of, is_required, wrapped
from pipeline.flag_values import as_text, kind_of, split_names

F = TypeVar("F")

BAD_INPUT = 2
"""Exit code of a job that refused its input."""
UNFINISHED = 1
"""Exit code of a job that left work undone, and of one that raised."""
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
        "--worker-timeout-minutes",
        type=float,
        help="for how long to be without any worker; default: as long as nodes may come",
    )
    parser.add_argument(
        "--unit-timeout-minutes",
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
    flags: type[F] | Mapping[str, type[F]],
    run: Callable[[F], int],
    *,
    name: str,
    args: Sequence[str] | None = None,
) -> int:
    """Parse a job's flags from a dataclass and run the job.

    The docstring of the dataclass is the description in ``--help``; the docstring under a field is
    the help of its flag, and the field's default is the flag's. Fields of nested dataclasses are
    flags of the same name. Fields of type ``tuple[X, ...]`` are given with commas
    (``--sites attn,ff``), fields of type ``list[X]`` by repeating the flag; ``None`` is a default
    that no flag can state, and the help does not show it.

    Args:
        flags: dataclass of the flags; or, for a job whose first argument is a word such as
            ``warmup``, the dataclass for each word.
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


def parse_flags(
    flags: type[F] | Mapping[str, type[F]], *, name: str, args: Sequence[str] | None = None
) -> F:
    """An instance of a dataclass of flags from the command line.

    Raises:
        InputError: if a flag is unknown, missing, given twice or refused.
        SystemExit: with code 0 after ``--help``.
    """
    given = sys.argv[1:] if args is None else list(args)
    if isinstance(flags, Mapping):
        word = _first_word(flags, given, name)
        _refuse_flags_of_other_words(flags, word, given[1:])
        return parse_flags(flags[word], name=f"{name} {word}", args=given[1:])
    if not {"-h", "--help"} & set(given):
        _check_names(flags_of(flags), given, name)
    return _parse(flags, name, given)


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


def _first_word(kinds: Mapping[str, type], given: list[str], name: str) -> str:
    if {"-h", "--help"} & set(given[:1]):
        print(_help_of_words(kinds, name))
        raise SystemExit(0)
    if not given or given[0] not in kinds:
        got = repr(given[0]) if given else "nothing"
        raise InputError(
            f"The first argument must be one of {', '.join(kinds)}. Got {got}. See {name} --help."
        )
    return given[0]


def _refuse_flags_of_other_words(kinds: Mapping[str, type], word: str, given: list[str]) -> None:
    known = {one: flags_of(kind) for one, kind in kinds.items()}
    for flag in (one.partition("=")[0] for one in given):
        others = [one for one in known if flag in known[one]]
        if others and word not in others:
            raise InputError(
                f"{flag} must come with {' or '.join(others)}. Got it with {word}. Leave it out."
            )


def _help_of_words(kinds: Mapping[str, type], name: str) -> str:
    width = max(map(len, kinds))
    lines = [
        f"  {word:{width}}  {str(kind.__doc__).splitlines()[0]}" for word, kind in kinds.items()
    ]
    usage = f"usage: {name} {{{','.join(kinds)}}} [OPTIONS]"
    return "\n".join([usage, "", *lines, "", f"{name} {next(iter(kinds))} --help lists flags."])


def _check_names(known: dict[str, Flag], given: list[str], name: str) -> None:
    """Refuse unknown flags, flags given twice and missing flags.

    tyro lets three cases pass: the last of two values wins, ``_`` stands for ``-``, and a missing
    list is empty. A value that looks like a flag (``--x``, ``-x``) can only be given with ``=``.
    """
    names = [one.partition("=")[0] for one in given if re.match(r"--|-[A-Za-z]", one)]
    for flag in names:
        if flag not in known:
            raise InputError(f"{_unknown(flag, known)} See {name} --help.")
        if (count := names.count(flag)) > 1 and get_origin(known[flag].kind) is not list:
            raise InputError(f"{flag} must be given once. Got it {count} times. Pass it once.")
    missing = [flag for flag, one in known.items() if one.is_required and flag not in names]
    if missing:
        raise InputError(f"{_required(missing)} See {name} --help.")


def _required(names: list[str]) -> str:
    """``--a, --b and --c are required.``"""
    first, last = ", ".join(names[:-1]), names[-1]
    return f"{first} and {last} are required." if first else f"{last} is required."


def _unknown(flag: str, known: Iterable[str]) -> str:
    names = [one[2:] for one in known]
    near = difflib.get_close_matches(flag.strip("-").replace("_", "-"), names, n=1)
    longer = [one for one in known if one.startswith(flag)]
    guess = longer if len(longer) == 1 else [f"--{name}" for name in near]
    return f"There is no flag {flag}." + "".join(f" Did you mean {one}?" for one in guess)


def _parse(flags: type[F], name: str, given: list[str]) -> F:
    printed, refused = io.StringIO(), io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(refused),
            on_parse_error(_refuse),
        ):
            return tyro.cli(
                flags,
                prog=name,
                description=description_of(flags),
                args=given,
                config=FLAG_STYLE,
                registry=_registry(),
            )
    except SystemExit as ended:
        if ended.code:
            raise InputError(refused.getvalue()) from None
        print(wrapped(printed.getvalue()))
        raise


FLAG_STYLE = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.UseAppendAction,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.DisallowNone,
)
"""Flat flags; a repeated flag appends; a switch has no negative; ``None`` cannot be typed."""


def _refuse(event: ParseErrorEvent) -> None:
    """Raise the one line for a failure that tyro is about to report.

    Raises:
        InputError: always, except for an event that no flags of ours can cause.
    """
    if isinstance(event, InstantiationFailure) and event.argument is None:
        # The message of a __post_init__, which has its own fix.
        raise InputError(event.message)
    if complaint := _complaint(event):
        raise InputError(f"{complaint} See {event.prog} --help.")


def _complaint(event: ParseErrorEvent) -> str | None:
    match event:
        case UnrecognizedArgs():
            return f"Every value must follow its flag. Got {event.tokens[0]!r}."
        case BadValue():
            return f"{event.argument.lowered.name_or_flags[0]} must have a value."
        case InstantiationFailure(argument=argument) if argument is not None:
            return f"{argument.lowered.name_or_flags[0]} {event.message}"
    return None


def _registry() -> tyro.constructors.ConstructorRegistry:
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_value_rule)
    registry.struct_rule(_dataclass_rule)
    return registry


def _dataclass_rule(
    info: tyro.constructors.StructTypeInfo,
) -> tyro.constructors.StructConstructorSpec | None:
    """Flags of a dataclass, the required ones first. tyro's own rule keeps the line breaks of the
    docstrings, and shows None and False as defaults."""
    if not is_dataclass(info.type):
        return None
    texts, hints = field_texts(info.type), get_type_hints(info.type)
    flags = [
        tyro.constructors.StructFieldSpec(
            name=field.name,
            type=cast(type, _with_hint(hints[field.name], hint_of(field, hints[field.name]))),
            default=_default_of(field, info.default),
            helptext=texts.get(field.name),
        )
        for field in sorted(fields(info.type), key=lambda field: not is_required(field))
    ]
    return tyro.constructors.StructConstructorSpec(instantiate=info.type, fields=tuple(flags))


def _with_hint(annotation: Any, hint: str | None) -> Any:
    return Annotated[annotation, tyro.conf.arg(help_behavior_hint=hint)]


def _default_of(field: Field[Any], whole: Any) -> Any:
    """The default of a field: of the dataclass's own default, if it has one."""
    if is_dataclass(whole):
        return getattr(whole, field.name)
    if field.default_factory is not MISSING:
        return field.default_factory()
    return tyro.MISSING_NONPROP if is_required(field) else field.default


def _value_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    if (kind := kind_of(info.type)) is None:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.metavar,
        instance_from_str=lambda given: kind.parse(given[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [] if value is None else [as_text(value)],
    )
