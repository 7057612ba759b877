"""Parts of a dataset: files of both tables that hold the same units.

A part holds one unit, as its worker wrote it, or several that compaction merged.
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
    """Where a part's file of a table lies."""
    return f"{table}/{file['name']}"


def unit_part(receipt: dict[str, Any]) -> Part:
    """The part that one unit's worker wrote."""
    # Names held no digest once.
    named = {"name": f"{receipt['unit_id']}.parquet"}
    files = {table: named | receipt["files"][table] for table in TABLES}
    return {"units": [receipt["index"]], "files": files}


def parts_of(manifest: dict[str, Any]) -> list[Part]:
    """A manifest's parts in the order of their units; without compaction, one a unit."""
    return manifest.get("parts") or [unit_part(unit) for unit in manifest["units"]]


def is_whole(part: Part, size: Callable[[str], int | None]) -> bool:
    """Whether both files have their bytes, by what ``size`` says of a key."""
    return all(
        size(key_of(name, part["files"][name])) == part["files"][name]["bytes"] for name in TABLES
    )


def is_sound(storage: Storage, part: Part) -> bool:
    """Whether both files are what the part says, as far as the storage can damage them."""
    return is_whole(part, storage.size) and all(
        storage.matches(key_of(name, part["files"][name]), part["files"][name]["sha256"])
        for name in TABLES
    )


def listed_sizes(storage: Storage) -> dict[str, int]:
    """Bytes of every shard, by key, in few requests."""
    return {
        f"{table}/{name}": size for table in TABLES for name, size in storage.sizes(table).items()
    }


def as_json(document: dict[str, Any]) -> bytes:
    """A document as it is written."""
    return (json.dumps(document, indent=2) + "\n").encode()


def receipt_key(unit: Unit) -> str:
    """Where a unit's receipt lies."""
    return f"_receipts/{unit.unit_id}.json"


def find_receipt(storage: Storage, unit: Unit) -> dict[str, Any] | None:
    """The receipt of a unit that is done: it reads, and its shards are what it says."""
    try:
        receipt = parse(storage.read(receipt_key(unit)) or b"")
        check_receipt(receipt, unit)
    except Malformed:
        # One that does not read is none: its unit is collected again.
        return None
    return receipt if is_sound(storage, unit_part(receipt)) else None


def commit_receipt(storage: Storage, unit: Unit, receipt: dict[str, Any]) -> dict[str, Any]:
    """Create a unit's receipt and return the one that counts, which an earlier attempt may have
    left. One that is not sound is replaced."""
    if storage.create(receipt_key(unit), as_json(receipt)):
        return receipt
    earlier = find_receipt(storage, unit)
    if earlier is None:
        storage.write(receipt_key(unit), as_json(receipt))
    return earlier or receipt
