"""Parts of a dataset: pairs of Parquet files (shards), one for each table, with the same units.

A part holds one unit, as a worker wrote it, or several units that compaction merged. The receipt
of a unit names the shards that the unit's worker wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pipeline.exploration.collect_plan import Unit
from pipeline.storage.json_schema import Malformed, parse
from pipeline.storage.object_store import Storage
from pipeline.traces.document_schemas import TABLES, check_receipt

Part = dict[str, Any]
"""``units``, the indices of units in order, and ``files``, which has ``name``, ``bytes`` and
``sha256`` of the shard of each table."""


def key_of(table: str, file: dict[str, Any]) -> str:
    """Return the storage key of a part's shard of a table."""
    return f"{table}/{file['name']}"


def unit_part(receipt: dict[str, Any]) -> Part:
    """Return the part that the worker of a unit wrote, from the unit's receipt."""
    # Receipts of the first release name no file: a shard then had the unit's id as its name.
    named = {"name": f"{receipt['unit_id']}.parquet"}
    files = {table: named | receipt["files"][table] for table in TABLES}
    return {"units": [receipt["index"]], "files": files}


def parts_of(manifest: dict[str, Any]) -> list[Part]:
    """Return the parts of a manifest in the order of their units; without compaction, each part
    holds one unit."""
    return manifest.get("parts") or [unit_part(unit) for unit in manifest["units"]]


def files_of(parts: list[Part], table: str) -> dict[str, dict[str, Any]]:
    """Return the files of one table by storage key, in the order of the parts."""
    return {key_of(table, part["files"][table]): part["files"][table] for part in parts}


def is_whole(part: Part, size: Callable[[str], int | None]) -> bool:
    """Return True if both shards have the number of bytes that the part says.

    Args:
        part: the part to check.
        size: bytes of the file of a key; None if there is no such file.
    """
    return all(
        size(key_of(name, part["files"][name])) == part["files"][name]["bytes"] for name in TABLES
    )


def is_sound(storage: Storage, part: Part) -> bool:
    """Return True if both shards have the number of bytes and the digests that the part says.

    On folders the files are read and hashed. Object stores verify what they store, so that only
    the number of bytes is compared there.
    """
    return is_whole(part, storage.size) and all(
        storage.matches(key_of(name, part["files"][name]), part["files"][name]["sha256"])
        for name in TABLES
    )


def listed_sizes(storage: Storage) -> dict[str, int]:
    """Return the sizes of all shards in bytes, by key, with one listing for each table."""
    return {
        f"{table}/{name}": size for table in TABLES for name, size in storage.sizes(table).items()
    }


def as_json(document: dict[str, Any]) -> bytes:
    """Encode a document as it is written to storage."""
    return (json.dumps(document, indent=2) + "\n").encode()


def receipt_key(unit: Unit) -> str:
    """Return the storage key of a unit's receipt."""
    return f"_receipts/{unit.unit_id}.json"


def read_receipt(storage: Storage, unit_id: str) -> dict[str, Any] | None:
    """Read the receipt of a unit, unchecked; return None if there is none that is a document."""
    try:
        return parse(storage.read(f"_receipts/{unit_id}.json") or b"")
    except Malformed:
        # The unit is collected again.
        return None


def find_receipt(storage: Storage, unit: Unit) -> dict[str, Any] | None:
    """Read the receipt of a unit; return None unless it is valid and its shards are sound."""
    return sound_receipt(storage, unit, read_receipt(storage, unit.unit_id))


def sound_receipt(
    storage: Storage, unit: Unit, receipt: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Return the receipt of a unit; None unless it is valid and its shards are sound."""
    try:
        check_receipt(receipt or {}, unit)
    except Malformed:
        return None
    assert receipt is not None
    return receipt if is_sound(storage, unit_part(receipt)) else None


def commit_receipt(storage: Storage, unit: Unit, receipt: dict[str, Any]) -> dict[str, Any]:
    """Create a unit's receipt, unless an earlier attempt has left a sound one.

    Returns:
        The receipt in storage: the given one, or the sound one of the earlier attempt.
    """
    if storage.create(receipt_key(unit), as_json(receipt)):
        return receipt
    earlier = find_receipt(storage, unit)
    if earlier is None:
        storage.write(receipt_key(unit), as_json(receipt))
    return earlier or receipt
