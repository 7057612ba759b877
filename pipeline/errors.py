"""The door that every job enters by: one parser style, one line for bad input, exit code 2."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

T = TypeVar("T")

BAD_INPUT = 2
"""Exit code of a job that was given something it cannot work with."""
UNFINISHED = 1
"""Exit code of a job that left work undone, as of one that met a bug."""
AUTO = "auto"
"""A size that is to be measured."""


class Refusal(ValueError):
    """Bad input: what is wrong and how to mend it, in one line. Nothing was overwritten."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Unfinished(RuntimeError):
    """Some of the work is not done; what is done is kept, and the same command goes on from it."""


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
    """Parse, run, and turn a :class:`Refusal` into one line and exit code 2, work that was left
    undone into its lines and exit code 1."""
    arguments = parser.parse_args()
    try:
        return run(arguments)
    except (Refusal, Unfinished) as ended:
        print(f"{parser.prog}: {ended}", file=sys.stderr, flush=True)
        return BAD_INPUT if isinstance(ended, Refusal) else UNFINISHED


def inside_ray_job() -> bool:
    """Whether this process is the driver of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def refuse_relative_inside_job(**paths: str | None) -> None:
    """Inside a Ray job a relative path lands in Ray's temporary folder and is lost.

    Raises:
        Refusal: if a path is relative and this process was submitted to Ray.
    """
    for flag, path in paths.items():
        lost = path is not None and "://" not in path and not os.path.isabs(path)
        if lost and inside_ray_job():
            raise Refusal(
                f"--{flag.replace('_', '-')} must be absolute inside a Ray job, where the working "
                f"folder is temporary. Got {path!r}. Pass an absolute path or a storage URI."
            )


class StorageFailed(Refusal):
    """Storage that did not answer as it should: bad input at first, later a failure like others."""


def without_secrets(text: str) -> str:
    """A line to print: what stands before the @ of a URI may be a password."""
    return re.sub(r"//\S*@", "//...@", text)


WRITTEN_FIRST = {"policy.safetensors", "frontier.png", "samples.png", "report.md", "plans"}
"""What a stage that is cut off while it writes leaves of a policy or of results."""


def refuse_other_files(out: str, ours: str) -> None:
    """A stage writes into a new folder, or over what it wrote itself.

    Raises:
        Refusal: if the folder holds files but not ``ours``.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise Refusal(f"--out must be a folder. Got {out}, which is a file. Name another.")
    # What begins with an underscore is what a run that was cut off left to be taken up.
    found = {one.name for one in folder.iterdir()} if folder.exists() else set()
    others = {name for name in found - WRITTEN_FIRST if name[0] != "_"}
    if others and not (folder / ours).exists():
        raise Refusal(
            f"--out must be new or hold {ours}. Got {out}, which holds other files. Name another."
        )


def refuse_unwritable(out: str) -> None:
    """Tell before any work that what it gives could not be written.

    Raises:
        Refusal: if the folder cannot be made, or not written to.
    """
    if "://" in out:
        raise Refusal(f"--out must be a folder of this machine. Got {out!r}. Pass a path.")
    wanted = Path(out).absolute()
    nearest = next(path for path in (wanted, *wanted.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise Refusal(
            f"--out must be a folder that can be written. Got {out}, with {nearest} in the way. "
            "Name another."
        )


def checked(build: Callable[..., T], **fields: object) -> T:
    """Build a configuration; what its ``__post_init__`` refuses becomes a :class:`Refusal`."""
    try:
        return build(**fields)
    except ValueError as error:
        raise Refusal(str(error)) from error


def add_fleet_flags(parser: JobParser) -> None:
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
        Refusal: if something else stands between the commas.
    """
    numbers = split_names(text)
    if not all(number.isdecimal() for number in numbers):
        raise Refusal(f"{flag} must be whole numbers. Got {text!r}. Pass 0,1,2.")
    return tuple(map(int, numbers))


def gains(flag: str, text: str) -> tuple[float, ...]:
    """``"0,0.5"`` to ``(0.0, 0.5)``.

    Raises:
        Refusal: if something else stands between the commas.
    """
    try:
        return tuple(map(float, split_names(text)))
    except ValueError:
        raise Refusal(f"{flag} must be numbers from 0 to 1. Got {text!r}. Pass 0,0.5.") from None


def size_or_auto(text: str) -> int | str:
    """``"48"`` to 48, ``"auto"`` to itself: the type of a flag.

    Raises:
        ValueError: for anything else.
    """
    return AUTO if text == AUTO else int(text)
