"""Damage to safetensors files."""

from __future__ import annotations

import json
import math
import random
import struct
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import VALUES, Change, cut, encode, flip, pick


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join(header: Any, body: bytes) -> bytes:
    """Return a safetensors file of a header and the values."""
    text = header if isinstance(header, bytes) else encode(header)
    return struct.pack("<Q", len(text)) + text + body


def _no_number(rng: random.Random, data: bytes) -> tuple[str, bytes, bool]:
    header, body = _split(data)
    kinds = {"F32": struct.pack("<f", math.nan), "F16": struct.pack("<e", math.inf)}
    name = rng.choice(sorted(key for key in header if key != "__metadata__"))
    value, start = kinds[header[name]["dtype"]], header[name]["data_offsets"][0]
    changed = body[:start] + value + body[start + len(value) :]
    return f"{name} holds {value.hex()}", join(header, changed), True


def _extra_tensor(rng: random.Random, data: bytes) -> tuple[str, bytes, bool]:
    header, body = _split(data)
    name = rng.choice(["transformer_blocks.99.x.weight", "x", "", "networks.99.0.weight", "é" * 99])
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [len(body), len(body) + 8]}
    return f"a further tensor {name!r}", join(header | {name: entry}, body + bytes(8)), True


def _less_tensors(rng: random.Random, data: bytes) -> tuple[str, bytes, bool]:
    header, body = _split(data)
    last = max(
        (key for key in header if key != "__metadata__"),
        key=lambda key: header[key]["data_offsets"][1],
    )
    start = header.pop(last)["data_offsets"][0]
    return f"no tensor {last}", join(header, body[:start]), True


def _odd_header(rng: random.Random, data: bytes) -> tuple[str, bytes, bool]:
    header, body = _split(data)
    header.pop("__metadata__", None)
    _, change = pick(rng, VALUES)
    note, header, _ = change(rng, header)
    return f"header: {note}", join(header, body), False


def _odd_size(rng: random.Random, data: bytes) -> tuple[str, bytes, bool]:
    size = rng.choice([0, 1, 2**20, 10**8, 2**40, 2**63, 2**64 - 1])
    return f"a header of {size} bytes", struct.pack("<Q", size) + data[8:], True


def _flip_header(rng: random.Random, data: bytes) -> tuple[str, bytes, bool]:
    (size,) = struct.unpack("<Q", data[:8])
    note, head, _ = flip(rng, data[: 8 + size])
    return f"header: {note}", head + data[8 + size :], False


WEIGHTS = {
    "cut": cut,
    "no number": _no_number,
    "further": _extra_tensor,
    "less": _less_tensors,
    "header": _odd_header,
    "size": _odd_size,
    "flip": _flip_header,
    "longer": lambda rng, data: ("eight bytes more", data + bytes(8), True),
    "empty": lambda rng, data: ("empty", b"", True),
    "random": lambda rng, data: ("random bytes", rng.randbytes(1000), True),
}
"""Changes of a safetensors file. Flipped bits of values are left out: no digest covers them."""


def damage_weights(rng: random.Random, path: Path) -> Change:
    """Damage a safetensors file."""
    _, change = pick(rng, WEIGHTS)
    note, data, is_damaged = change(rng, path.read_bytes())
    path.write_bytes(data)
    return Change(note=f"{path.name}: {note}", is_damaged=is_damaged)
