"""Orphans: shards that no manifest names and no reader sees, deleted when a collection is done."""

from __future__ import annotations

from typing import Any

from pipeline.storage.object_store import Storage
from pipeline.traces.dataset import side_by_side
from pipeline.traces.document_schemas import MERGED_SHARD, TABLES, UNIT_SHARD
from pipeline.traces.shards import key_of, parts_of

FOLDERS = (*TABLES, "_receipts", "_manifest", "_lease")


def orphans(storage: Storage, manifest: dict[str, Any]) -> list[str]:
    """Keys of what attempts at the manifest's units and compaction left beside what it names.

    Shards of units that it does not hold are left alone, and so is every other file.
    """
    named = {key_of(name, part["files"][name]) for part in parts_of(manifest) for name in TABLES}
    units = {unit["unit_id"] for unit in manifest["units"]}
    return [
        f"{table}/{name}"
        for table in TABLES
        for name in storage.sizes(table)
        if f"{table}/{name}" not in named and _is_ours(name, units)
    ]


def _is_ours(name: str, units: set[str]) -> bool:
    shard = UNIT_SHARD.fullmatch(name)
    return shard["unit"] in units if shard else MERGED_SHARD.fullmatch(name) is not None


def delete_orphans(storage: Storage, manifest: dict[str, Any]) -> None:
    """Delete them. For the driver that holds the folder's lease alone, after it published."""
    side_by_side(storage.delete, orphans(storage, manifest))
    for folder in FOLDERS:
        storage.delete_partial(folder)
