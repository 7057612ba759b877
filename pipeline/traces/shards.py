"""Parts of a dataset: pairs of shards, one a table, that hold the same units.

A part holds one unit, as its worker wrote it, or several that compaction merged. A receipt says
which part a unit's worker wrote.
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
"""``units``, indices in order, and ``files``: of each table ``name``, ``bytes`` and ``sha256``."""


def key_of(table: str, file: dict[str, Any]) -> str:
    """Storage key of a part's file of a table."""
    return f"{table}/{file['name']}"


def unit_part(receipt: dict[str, Any]) -> Part:
    """The part that one unit's worker wrote."""
    # Names held no digest once.
    named = {"name": f"{receipt['unit_id']}.parquet"}
    files = {table: named | receipt["files"][table] for table in TABLES}
    return {"units": [receipt["index"]], "files": files}


def parts_of(manifest: dict[str, Any]) -> list[Part]:
    """Parts of a manifest in the order of their units; without compaction, one a unit."""
    return manifest.get("parts") or [unit_part(unit) for unit in manifest["units"]]


def is_whole(part: Part, size: Callable[[str], int | None]) -> bool:
    """Test that both files have as many bytes as the part says, by the sizes of their keys."""
    return all(
        size(key_of(name, part["files"][name])) == part["files"][name]["bytes"] for name in TABLES
    )


def is_sound(storage: Storage, part: Part) -> bool:
    """Test that both files have the bytes and the digests that the part says.

    Object stores check digests themselves; on folders the files are read.
    """
    return is_whole(part, storage.size) and all(
        storage.matches(key_of(name, part["files"][name]), part["files"][name]["sha256"])
        for name in TABLES
    )


def listed_sizes(storage: Storage) -> dict[str, int]:
    """Sizes of all shards in bytes, by key, in few requests."""
    return {
        f"{table}/{name}": size for table in TABLES for name, size in storage.sizes(table).items()
    }


def as_json(document: dict[str, Any]) -> bytes:
    """Encode a document as it is written to storage."""
    return (json.dumps(document, indent=2) + "\n").encode()


def receipt_key(unit: Unit) -> str:
    """Storage key of a unit's receipt."""
    return f"_receipts/{unit.unit_id}.json"


def find_receipt(storage: Storage, unit: Unit) -> dict[str, Any] | None:
    """Read the receipt of a unit, if it is valid and its shards are sound."""
    try:
        receipt = parse(storage.read(receipt_key(unit)) or b"")
        check_receipt(receipt, unit)
    except Malformed:
        # The unit is collected again.
        return None
    return receipt if is_sound(storage, unit_part(receipt)) else None


def commit_receipt(storage: Storage, unit: Unit, receipt: dict[str, Any]) -> dict[str, Any]:
    """Create a unit's receipt, unless an earlier attempt has left a sound one.

    Returns:
        The receipt that counts.
    """
    if storage.create(receipt_key(unit), as_json(receipt)):
        return receipt
    earlier = find_receipt(storage, unit)
    if earlier is None:
        storage.write(receipt_key(unit), as_json(receipt))
    return earlier or receipt
