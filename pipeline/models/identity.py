"""Identity of a model: a digest of each part that a reference sample depends on.

An identity is one line of text, such as ``transformer=1f0c...,scheduler=9ab2...``, so that two
identities say which part differs. It depends on the stored weights and their dtype, and not on the
dtype of a run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from pipeline.models.sampling_choices import sampler_change
from pipeline.storage.machine_cache import recall, remember

PARTS = ("transformer", "scheduler", "vae", "classifier", "text_encoder")
"""Sub-folders of a model that change a reference sample or its quality metrics."""
UNIMPORTANT = ("_diffusers_version", "_name_or_path", "_use_default_values")
"""Keys of a configuration that change no sample: who saved it, and where."""
MAX_CHARACTERS = 1000
"""Longest identity; one of five parts has 140 characters."""
LARGE = 1 << 26
"""Bytes from which a file's digest is remembered on this machine."""
DIGITS_SHOWN = 16
MAX_JSON_BYTES = 16 * 2**20
"""Largest JSON file that is parsed; parsing takes up to 20 times its size in memory."""


def identify(folder: Path) -> str:
    """Return the identity of a model folder.

    Raises:
        OSError: if a file cannot be read.
    """
    parts = [part for part in PARTS if (folder / part).is_dir()]
    return ",".join(f"{part}={_digest_folder(folder / part)}" for part in parts)


def describe_difference(one: str, other: str) -> str:
    """Name the parts in which two identities differ. Example: ``"another scheduler, vae"``."""
    first, second = _parts_of(one), _parts_of(other)
    if first is None or second is None:
        return "an identity by another version of this library"
    names = [*first, *(name for name in second if name not in first)]
    return "another " + ", ".join(name for name in names if first.get(name) != second.get(name))


def describe_change(field: str, found: Any, wanted: Any) -> str:
    """Describe how a field of a plan differs: a model and a sampler by their parts, all others by
    their values."""
    if field == "model_hash":
        return f"a model with {describe_difference(str(found), str(wanted))}"
    if field == "sampler":
        return sampler_change(str(found), str(wanted))
    return f"{field} {found!r:.80} instead of {wanted!r:.80}"


def _parts_of(identity: str) -> dict[str, str] | None:
    # An identity may come from a policy that anyone wrote.
    if len(identity) > MAX_CHARACTERS or not re.fullmatch(r"[\w=,.-]*", identity):
        return None
    pairs = [part.partition("=") for part in identity.split(",")]
    if not all(equals for _, equals, _ in pairs):
        return None
    return {name: digest for name, _, digest in pairs}


def _digest_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(path.name.encode() + b"\0" + _digest_file(path).encode())
    return digest.hexdigest()[:DIGITS_SHOWN]


def _digest_file(path: Path) -> str:
    about = path.stat()
    if path.suffix == ".json" and about.st_size <= MAX_JSON_BYTES:
        return hashlib.sha256(_canonical(path.read_bytes())).hexdigest()
    return _read_digest(path) if about.st_size < LARGE else _remembered_digest(path, about)


def _canonical(config: bytes) -> bytes:
    """Return a configuration without :data:`UNIMPORTANT`, keys sorted; other JSON unchanged."""
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        return config
    if not isinstance(document, dict):
        return config
    kept = {name: value for name, value in document.items() if name not in UNIMPORTANT}
    return json.dumps(kept, sort_keys=True).encode()


def _read_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remembered_digest(path: Path, about: os.stat_result) -> str:
    """Return the digest of a large file, read once for each path, inode, size and change time."""
    key = (str(path.resolve()), about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    remembered = recall("file-digests", key)
    if len(remembered) == 64 and set(remembered) <= set("0123456789abcdef"):
        return remembered
    digest = _read_digest(path)
    remember("file-digests", key, digest)
    return digest
