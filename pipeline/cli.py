"""The command line of every job: flags from a dataclass, one line and exit code 2 for bad input."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, cast, get_type_hints

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
from pipeline.flags.help import description_of, field_texts, hint_of, is_required, wrapped
from pipeline.flags.names import check_names, first_word, flags_of, refuse_flags_of_other_words
from pipeline.flags.values import as_text, is_printable, kind_of, quoted
from pipeline.redaction import print_traceback

F = TypeVar("F")

BAD_INPUT = 2
"""Exit code of a job that refused its input."""
UNFINISHED = 1
"""Exit code of a job that left work undone, and of one that raised."""
LONGEST = 1200
"""Characters of a job's last line; of a longer one, the middle is left out."""
FLAG_STYLE = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.UseAppendAction,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.DisallowNone,
)
"""Flat flags; a repeated flag appends; a switch has no negative; ``None`` cannot be typed."""


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
        that was left undone, and 1 after the traceback of any other exception.
    """
    try:
        return run(parse_flags(flags, name=name, args=args))
    except (InputError, IncompleteError) as ended:
        print(_line_of(name, str(ended), flags), file=sys.stderr, flush=True)
        return BAD_INPUT if isinstance(ended, InputError) else UNFINISHED
    except Exception:
        # The interpreter would print the traceback with the secrets of a URI.
        print_traceback()
        return UNFINISHED


def _line_of(name: str, message: str, flags: type | Mapping[str, type]) -> str:
    """The line that ends a job, printable, with the flag that was typed for its field's name: a
    configuration says ``num_samples must``, and its flag is ``--num-samples``."""
    kinds = flags.values() if isinstance(flags, Mapping) else [flags]
    known = {flag for kind in kinds for flag in flags_of(kind)}
    first, _, rest = message.partition(" must ")
    if rest and (flag := f"--{first.replace('_', '-')}") in known:
        message = f"{flag} must {rest}"
    line = " ".join(f"{name}: {message}".split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST - 500]}... [{len(line) - LONGEST} characters] ...{line[-500:]}"
    return "".join(one if is_printable(one) else ascii(one)[1:-1] for one in line)


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
        word = first_word(flags, given, name)
        refuse_flags_of_other_words(flags, word, given[1:])
        return parse_flags(flags[word], name=f"{name} {word}", args=given[1:])
    if not {"-h", "--help"} & set(given):
        check_names(flags_of(flags), given, name)
    return _parse(flags, name, given)


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
            return f"Every value must follow its flag. Got {quoted(event.tokens[0])}."
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
