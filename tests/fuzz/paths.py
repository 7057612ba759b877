"""Odd paths for every flag that names a file or a folder."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.cases import Case
from tests.fuzz.command_lines import Table, tables

FLAGS = (
    ("collect", "--out"),
    ("collect", "--model"),
    ("collect", "--explore-around"),
    ("train", "--out"),
    ("train", "--traces"),
    ("train", "--config"),
    ("evaluate", "--out"),
    ("evaluate", "--model"),
    ("evaluate", "--policy"),
    ("evaluate", "--config"),
    ("sample", "--out"),
    ("sample", "--model"),
    ("sample", "--policy"),
    ("sample", "--plan"),
    ("sample", "--config"),
    ("threshold", "--out"),
    ("warmup", "--out"),
    ("warmup", "--model"),
    ("pretrain", "--out"),
    ("demo", "--out"),
)
"""Flags that name a path, by job or kind of sweep."""
MB = 2**20


def odd_paths(folder: Path) -> dict[str, tuple[str, bool]]:
    """Make odd files below a folder; return each path by what is odd, with True where a job that
    accepts the path for its output would be wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text("mine\n")
    (folder / "empty").touch()
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.txt").write_text("mine\n")
    (folder / "binary").write_bytes(bytes(range(256)) * 40)
    (folder / "read-only").mkdir(mode=0o555)
    os.mkfifo(folder / "fifo")
    for name, target in (("dangling", "/nonexistent/x"), ("loop", "loop"), ("link", "linked")):
        (folder / name).symlink_to(target)
    (folder / "linked").mkdir()
    with open(folder / "large", "wb") as stream:
        stream.truncate(600 * MB)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket"))
    named = {
        name: (str(folder / name), True)
        for name in (
            "file",
            "empty",
            "taken",
            "binary",
            "fifo",
            "dangling",
            "loop",
            "large",
            "socket",
        )
    }
    return (
        named
        | {
            "a link to a folder": (str(folder / "link"), False),
            "a new folder": (str(folder / "new"), False),
            "a folder below new ones": (str(folder / "new" / "er" / "est"), False),
            "a read-only folder": (str(folder / "read-only" / "x"), os.getuid() != 0),
            "below a file": (str(folder / "file" / "x"), True),
            "below a dangling link": (str(folder / "dangling" / "x"), True),
            "a name of 256 bytes": (str(folder / ("x" * 256)), True),
            "below a name of 256 bytes": (str(folder / ("x" * 256) / "b"), True),
            "a name of 256 bytes below a new folder": (str(folder / "new2" / ("x" * 256)), True),
            "a name of 128 letters of 2 bytes": (str(folder / ("é" * 128)), True),
            "a name of 240 bytes": (str(folder / ("é" * 120)), False),
            "4100 characters": (str(folder) + "/d" * 2050, True),
            "4090 characters": (str(folder) + "/d" * ((4090 - len(str(folder))) // 2), True),
            "a NUL": (str(folder / "a\0b"), True),
            "a newline": (str(folder / "a\nb"), True),
            "a lone surrogate": (str(folder / "a\udcffb"), True),
            "an escape": (str(folder / "a\x1b[31mb"), True),
            "spaces and letters": (str(folder / "é 空 #1 ?%20"), False),
            "two slashes": (f"/{folder}//x/", False),
            "dots": (f"{folder}/./new3/../new4", False),
            "the working folder": (".", False),
            "the folder above": ("..", True),
            "a file URI": (f"file://{folder}/uri", False),
            "a file URI with a query": (f"file://{folder}/uri?x=1", True),
            "a file URI of another host": ("file://host/x", True),
            "a URI of no scheme": ("://x", True),
            "a bucket without a name": ("s3://", True),
            "a bucket with one slash": ("s3:/bucket", True),
            "a bucket that does not answer": ("s3://bucket/prefix", False),
        }
        | {
            name: (name, True)
            for name in (
                *(
                    "/",
                    "/proc/x",
                    "/proc/self/x/y",
                    "/sys/x",
                    "/dev/null",
                    "/dev/full",
                    "/dev/zero",
                ),
                *(
                    "/dev/null/x",
                    "/dev/fd/0",
                    "/dev/x/../null",
                    "/proc/self/fd/1",
                    "/proc/1/root/proc/x",
                ),
            )
        }
    )


def cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Odd paths for the flags, each pair once in random order, over and over again.

    The valid inputs lie in the folder ``valid`` beside ``folder``.
    """
    found = tables(folder.parent / "valid")
    names = odd_paths(folder / "names")
    for number in itertools.count():
        pairs = [(flag, name) for flag in FLAGS for name in names]
        rng.shuffle(pairs)
        for index, ((job, flag), name) in enumerate(pairs):
            place = folder / f"{number}-{index}"
            path, is_wrong = odd_paths(place)[name]
            yield _case(found[job], flag, path, f"{flag} is {name}", is_wrong)
            shutil.rmtree(place, ignore_errors=True)


def _case(one: Table, flag: str, path: str, note: str, is_wrong: bool) -> Case:
    base = [given for given in one.base if not given.startswith(f"{flag}=")]
    return Case(
        kind="path",
        job=one.job,
        args=(*one.words, *base, f"{flag}={path}"),
        note=note,
        is_damaged=is_wrong and flag == "--out",
    )
