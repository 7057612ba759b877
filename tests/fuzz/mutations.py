"""Damage to files of the jobs: JSON, bytes, and what stands at a path."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEEP = "<deep>"
"""Text in a document that is written as lists within lists."""
ODD: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], {"a": 1}, [1] * 1000, DEEP),
    *(0, -1, 1, 2, 7, 10**9, 2**31, 2**40, 2**63, 2**64, 10**30, 10**400),
    *(0.5, -0.0, 1e-300, 1e300, math.nan, math.inf, -math.inf),
    *("", "x", "1", "é\u202e", "\ud800", "\x00", "\x1b[31m", "a\nb", "a" * 5000),
    *("../../../../etc/passwd", "/dev/zero"),
)
"""Values that take the place of others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change that was made to a file."""

    note: str
    """Description of the mutation."""
    is_damaged: bool = False
    """True where a reader that takes the file would be silently wrong."""


def pick(rng: random.Random, options: dict[str, Any]) -> tuple[str, Any]:
    """Draw one of some options with its name."""
    name = rng.choice(sorted(options))
    return name, options[name]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the keys that lead to each value within a document, at most 400."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    found = [(*path, key) for key, _ in inner]
    for key, item in inner[:40]:
        found += places(item, (*path, key))
    return found[:400]


def encode(document: Any) -> bytes:
    """Return a document as JSON, with :data:`DEEP` as lists within lists."""
    deep = "[" * 20_000 + "]" * 20_000
    return json.dumps(document).replace(json.dumps(DEEP), deep).encode()


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def _replace(rng: random.Random, document: Any) -> tuple[str, Any, bool]:
    path = rng.choice(places(document))
    value = rng.choice(ODD)
    _at(document, path[:-1])[path[-1]] = copy.deepcopy(value)
    # JSON has no NaN; a number that is none is never meant.
    is_nan = isinstance(value, float) and math.isnan(value)
    return f"{path} is {value!r:.40}", document, is_nan


def _scale(rng: random.Random, document: Any) -> tuple[str, Any, bool]:
    numbers = [one for one in places(document) if type(_at(document, one)) in (int, float)]
    if not numbers:
        return _replace(rng, document)
    path = rng.choice(numbers)
    factor = rng.choice([-1, 0, 2, 3, 10, 1000, 10**6, 10**12, 0.5, 1e-6])
    number = _at(document, path) * factor
    _at(document, path[:-1])[path[-1]] = number
    return f"{path} is {number!r:.40}", document, False


def _drop(rng: random.Random, document: Any) -> tuple[str, Any, bool]:
    path = rng.choice(places(document))
    del _at(document, path[:-1])[path[-1]]
    return f"{path} is dropped", document, False


def _rename(rng: random.Random, document: Any) -> tuple[str, Any, bool]:
    keys = [path for path in places(document) if isinstance(path[-1], str)]
    path = rng.choice(keys)
    inner = _at(document, path[:-1])
    name = rng.choice([path[-1] + "x", path[-1].upper(), "", "\x00", "a" * 300, " " + path[-1]])
    inner[name] = inner.pop(path[-1])
    return f"{path} is renamed to {name!r:.40}", document, False


def _whole(rng: random.Random, document: Any) -> tuple[str, Any, bool]:
    value = rng.choice([None, 1, "x", [], [document], DEEP, True])
    return f"the document is {value!r:.40}", value, False


VALUES = {
    "replace": _replace,
    "scale": _scale,
    "drop": _drop,
    "rename": _rename,
    "whole": _whole,
}
"""Changes of a document's values."""


def _repeat_key(rng: random.Random, data: bytes) -> tuple[str, bytes, bool]:
    document = json.loads(data)
    key = rng.choice(sorted(document))
    pair = f"{json.dumps(key)}: {json.dumps(rng.choice([1, None, 'x', document[key]]))}, "
    return f"{key!r} twice", data.replace(b"{", b"{" + pair.encode(), 1), True


def cut(rng: random.Random, data: bytes) -> tuple[str, bytes, bool]:
    length = rng.randrange(len(data.rstrip()))
    return f"cut after {length} of {len(data)} bytes", data[:length], True


def flip(rng: random.Random, data: bytes) -> tuple[str, bytes, bool]:
    bit = rng.randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return f"bit {bit} flipped", bytes(changed), False


def _odd_bytes(rng: random.Random, data: bytes) -> tuple[str, bytes, bool]:
    name, changed = pick(
        rng,
        {
            "empty": b"",
            "byte order mark": b"\xef\xbb\xbf" + data,
            "no UTF-8": b"\xff\xfe" + data,
            "UTF-16": data.decode("utf-8", "replace").encode("utf-16"),
            "zeros": bytes(1000),
            "twice": data + data,
            "spaces": b" " * (20 * 2**20) + data,
            "lists": b"[" * 200_000,
            "sections": b'{"a":' * 100_000,
            "digits": b"1" * 100_000,
        },
    )
    return name, changed, False


BYTES = {"repeat": _repeat_key, "cut": cut, "flip": flip, "odd": _odd_bytes}
"""Changes of a JSON file's bytes."""


def damage_json(rng: random.Random, path: Path) -> Change:
    """Damage a JSON file."""
    data = path.read_bytes()
    if rng.random() < 0.7:
        _, change = pick(rng, VALUES)
        note, document, is_damaged = change(rng, json.loads(data))
        path.write_bytes(encode(document))
    else:
        _, change = pick(rng, BYTES)
        note, changed, is_damaged = change(rng, data)
        path.write_bytes(changed)
    return Change(note=f"{path.name}: {note}", is_damaged=is_damaged)


def _pickled(path: Path) -> None:
    import torch

    torch.save({"x": torch.zeros(2)}, path)


def _linked_away(path: Path) -> None:
    kept = path.with_name(path.name + ".moved")
    path.rename(kept)
    path.symlink_to(kept.name)


def _instead(put: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        remove(path)
        put(path)

    return replace


REPLACED: dict[str, tuple[Callable[[Path], None], bool]] = {
    "missing": (lambda path: remove(path), False),
    "a folder": (_instead(lambda path: path.mkdir()), True),
    "a pipe": (_instead(lambda path: os.mkfifo(path)), True),
    "a dangling link": (_instead(lambda path: path.symlink_to("nowhere")), True),
    "a loop of links": (_instead(lambda path: path.symlink_to(path.name)), True),
    "a device": (_instead(lambda path: path.symlink_to("/dev/zero")), True),
    "a link to a folder": (_instead(lambda path: path.symlink_to(".")), True),
    "pickled": (_instead(_pickled), True),
    "a link to itself moved": (_linked_away, False),
}
"""Contents put in place of a file, and whether reading on would be wrong."""


def replace_file(rng: random.Random, path: Path) -> Change:
    """Put something else in place of a file or folder."""
    name, (put, is_damaged) = pick(rng, REPLACED)
    put(path)
    return Change(note=f"{path.name} is {name}", is_damaged=is_damaged)


def remove(path: Path) -> None:
    """Remove a file or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
