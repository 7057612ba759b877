"""Compaction: merge the shards of many units into few files, and publish a manifest of these.

Merged files are written under new names, then a manifest that names them is published, and the
merged shards are deleted last. A driver killed at any point leaves the dataset of the newest
manifest, and the same command resumes. The steps are those of OPTIMIZE and VACUUM in Delta Lake
(Armbrust et al., VLDB 2020).
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from pipeline.storage.object_store import Root, Storage, open_storage
from pipeline.storage.unfinished_folder import work_begun
from pipeline.traces.commit import map_concurrently
from pipeline.traces.document_schemas import MERGED_SHARD, TABLES, UNIT_SHARD
from pipeline.traces.lease import Lease
from pipeline.traces.manifest import publish_manifest
from pipeline.traces.shards import Part, files_of, key_of, parts_of
from pipeline.traces.tables import merge_shards
from pipeline.traces.verified_files import verify_files

MEGABYTE = 1e6


def finalize(
    root: Root, manifest: dict[str, Any], compact_mb: float, lease: Lease
) -> dict[str, Any]:
    """Compact a finished collection, publish the manifest, delete orphaned files, and return the
    manifest.

    Args:
        compact_mb: size that a file of gates should reach, in megabytes; 0 merges nothing.

    Raises:
        InputError: if another driver has taken over. The lease is checked before each step, so
            that nothing more is published or deleted.
        IncompleteError: if storage fails. The dataset of the newest manifest stays.
    """
    storage = open_storage(root)
    with work_begun(storage):
        return _finalize(storage, manifest, compact_mb, lease)


def _finalize(
    storage: Storage, manifest: dict[str, Any], compact_mb: float, lease: Lease
) -> dict[str, Any]:
    lease.check_not_fenced()
    parts = compact(storage, manifest, compact_mb * MEGABYTE)
    lease.check_not_fenced()
    manifest = publish_manifest(storage, manifest | {"parts": parts})
    lease.check_not_fenced()
    vacuum(storage, manifest)
    return manifest


def compact(storage: Storage, manifest: dict[str, Any], target: float) -> list[Part]:
    """Merge neighbouring parts of a manifest into parts of about ``target`` bytes of gates, and
    return all parts.

    The shards to merge are compared with their digests first: a merged file has a new digest, which
    would hide earlier damage.

    Raises:
        InputError: naming a shard with other contents than were committed.
    """
    rows = {unit["index"]: unit for unit in manifest["units"]}
    groups = group_parts(parts_of(manifest), target)
    merged = [part for group in groups if len(group) > 1 for part in group]
    for table in TABLES:
        verify_files(storage, files_of(merged, table))
    return [_merge(storage, group, rows) if len(group) > 1 else group[0] for group in groups]


def group_parts(parts: list[Part], target: float) -> list[list[Part]]:
    """Group the neighbouring parts that become one file, greedily and in order.

    A group is closed once its files of gates have ``target`` bytes. Parts that were merged before
    stay as they are, so that compacting twice changes nothing.
    """
    groups: list[list[Part]] = []
    room = 0.0
    for part in parts:
        is_merged = len(part["units"]) > 1
        if is_merged or room <= 0:
            groups.append([])
            room = target
        groups[-1].append(part)
        room = 0.0 if is_merged else room - part["files"]["gates"]["bytes"]
    return groups


def _merge(storage: Storage, group: list[Part], rows: dict[int, dict[str, Any]]) -> Part:
    units = [index for part in group for index in part["units"]]
    expected = {name: sum(rows[index][name] for index in units) for name in TABLES}
    files = {name: _merge_table(storage, name, group, expected[name]) for name in TABLES}
    return {"units": units, "files": files}


def _merge_table(storage: Storage, table: str, group: list[Part], expected: int) -> dict[str, Any]:
    keys = [key_of(table, part["files"][table]) for part in group]
    with tempfile.TemporaryDirectory(prefix="dqar-merge-") as scratch:
        path = Path(scratch) / "merged.parquet"
        rows = merge_shards(storage, table, keys, path)
        if rows != expected:
            raise RuntimeError(
                f"Merging {table} must keep {expected} rows. Got {rows} from {keys}."
            )
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        first, last = group[0]["units"][0], group[-1]["units"][-1]
        file = {
            "name": f"merged-{first:06d}-{last:06d}-{sha256[:16]}.parquet",
            "bytes": path.stat().st_size,
            "sha256": sha256,
        }
        storage.write(key_of(table, file), path)
    return file


FOLDERS = (*TABLES, "_receipts", "_manifest", "_lease")


def orphans(storage: Storage, manifest: dict[str, Any]) -> list[str]:
    """Return the keys of the orphans of a manifest: merged shards and shards of its units that the
    manifest does not name.

    Shards of units outside the manifest and files of other names are not listed.
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


def vacuum(storage: Storage, manifest: dict[str, Any]) -> None:
    """Delete the orphans of a manifest and the remains of interrupted writes.

    Call this only while holding the folder's lease, after publishing the manifest.
    """
    map_concurrently(storage.delete, orphans(storage, manifest))
    for folder in FOLDERS:
        storage.delete_partial(folder)
