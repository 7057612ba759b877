"""What exists in a traces folder: the plan that claims it, receipts, the manifest.

A unit writes its two shards, then its receipt; the manifest names the shards that exist for a
reader. Each appears whole or not at all, and in this order, on folders and object stores alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from pipeline.errors import InputError
from pipeline.exploration.collect_plan import (
    TRACE_SCHEMA_VERSION,
    CollectPlan,
    Unit,
    canonical_json,
)
from pipeline.storage.object_store import Root, Storage, open_storage
from pipeline.traces.document_schemas import TABLES, check_plan
from pipeline.traces.manifest import newest_manifest, publish_manifest, read_document
from pipeline.traces.shards import (
    Part,
    as_json,
    find_receipt,
    is_sound,
    key_of,
    listed_sizes,
    parts_of,
    unit_part,
)

T = TypeVar("T")
U = TypeVar("U")
TraceUris: TypeAlias = Root | tuple[Root, ...]
"""One dataset, or several that are read one after the other."""
SIDE_BY_SIDE = 16
"""Requests in flight while receipts are looked through."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceDataset:
    """A finished dataset: its plan and the manifest that names its shards."""

    storage: Storage
    """Where it lies."""
    plan: dict[str, Any]
    """The plan's fields."""
    manifest: dict[str, Any]
    """The newest version."""

    @property
    def digest(self) -> str:
        """Digest of the floats as they were collected; compaction leaves it."""
        return self.manifest["data_digest"]

    def shards(self, table: str) -> list[str]:
        """Keys of one table's shards, in the order of the units."""
        return [key_of(table, part["files"][table]) for part in parts_of(self.manifest)]


def claim_output(root: Root, plan: CollectPlan) -> None:
    """Take a folder for a plan, or find it taken for the same one (resume).

    Raises:
        InputError: if the folder holds another plan, or something that is not a dataset.
    """
    storage = open_storage(root)
    wanted = json.loads(canonical_json(_plan_document(plan)))
    found = read_document(storage, "plan.json", lambda document: None)
    if found is not None:
        return _refuse_other_plan(found, wanted, storage)
    refuse_other_contents(storage)
    # First, so that a driver killed here leaves a folder that the same plan may claim.
    if not storage.create("plan.json", as_json(wanted)):
        claim_output(storage, plan)


def refuse_other_contents(storage: Storage) -> None:
    """A folder without a plan must be new.

    Raises:
        InputError: if it holds something.
    """
    if not storage.is_empty():
        raise InputError(
            f"--out must be a new folder or a collection's. Got {storage}, which holds "
            "other files. Name another folder."
        )


def _plan_document(plan: CollectPlan) -> dict[str, Any]:
    return {**plan.fields, "plan_hash": plan.plan_hash}


def _refuse_other_plan(found: dict[str, Any], wanted: dict[str, Any], storage: Storage) -> None:
    if found == wanted:
        return
    changed = [
        f"{key} {found.get(key)!r:.80} not {value!r:.80}"
        for key, value in wanted.items()
        if key != "plan_hash" and found.get(key) != value
    ]
    raise InputError(
        f"--out must hold the same plan. Got {storage}, collected with "
        f"{', '.join(changed) or 'other fields'}. Name another folder, or repeat the first command."
    )


def committed_receipts(root: Root, plan: CollectPlan) -> dict[str, dict[str, Any]]:
    """Receipts of the units that are done: by their own, or by a merged part that holds them."""
    storage = open_storage(root)
    held = _held_by_merged_parts(storage)
    written = storage.sizes("_receipts")

    def find(unit: Unit) -> dict[str, Any] | None:
        if unit.unit_id in held:
            return held[unit.unit_id]
        return find_receipt(storage, unit) if f"{unit.unit_id}.json" in written else None

    units = list(plan.units())
    found = zip(units, side_by_side(find, units), strict=True)
    return {unit.unit_id: receipt for unit, receipt in found if receipt is not None}


def _held_by_merged_parts(storage: Storage) -> dict[str, dict[str, Any]]:
    # After compaction a unit's own shards are gone.
    manifest = newest_manifest(storage)
    if manifest is None:
        return {}
    merged = [part for part in parts_of(manifest) if len(part["units"]) > 1]
    sound = side_by_side(lambda part: is_sound(storage, part), merged)
    held = {i for part, whole in zip(merged, sound, strict=True) if whole for i in part["units"]}
    return {unit["unit_id"]: unit for unit in manifest["units"] if unit["index"] in held}


def side_by_side(work: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """Apply to every item, several at once, since each waits for storage."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return list(pool.map(work, items))


def write_manifest(
    root: Root,
    plan: CollectPlan,
    receipts: dict[str, dict[str, Any]],
    model_facts: dict[str, Any],
) -> dict[str, Any]:
    """Publish the next manifest version; only what it names exists for a reader.

    ``model_facts`` are what training needs to know of the model: its depth, its sites' FLOPs.
    """
    storage = open_storage(root)
    units = sorted(receipts.values(), key=lambda receipt: receipt["index"])
    manifest = {
        "schema_version": TRACE_SCHEMA_VERSION,
        "plan_hash": plan.plan_hash,
        "trajectories": sum(unit["trajectories"] for unit in units),
        "gates": sum(unit["gates"] for unit in units),
        "decision_digest": _digest_of([unit["decision_digest"] for unit in units]),
        "data_digest": _digest_of(
            [unit["files"][name]["sha256"] for unit in units for name in TABLES]
        ),
        **model_facts,
        "units": units,
        "parts": _parts(storage, units),
    }
    return publish_manifest(storage, manifest)


def _parts(storage: Storage, units: list[dict[str, Any]]) -> list[Part]:
    """Merged parts that still hold what they held, and the other units' own."""
    latest = newest_manifest(storage)
    before = {unit["index"]: unit for unit in latest["units"]} if latest else {}
    now = {unit["index"]: unit for unit in units}
    merged = [
        part
        for part in (parts_of(latest) if latest else [])
        if len(part["units"]) > 1
        and all(now.get(index) == before[index] for index in part["units"])
        and is_sound(storage, part)
    ]
    held = {index for part in merged for index in part["units"]}
    own = [unit_part(unit) for unit in units if unit["index"] not in held]
    return sorted(merged + own, key=lambda part: part["units"])


def _digest_of(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def open_traces(root: Root) -> TraceDataset:
    """Find a dataset's manifest and check its shards.

    Raises:
        InputError: naming what is missing, empty, of another version or truncated, and the mend.
    """
    storage = open_storage(root)
    plan = read_document(storage, "plan.json", check_plan)
    if plan is None:
        raise InputError(
            f"--traces must be a folder that jobs/collect.py wrote. Got {root}, which "
            "holds no plan.json. Check the path."
        )
    traces = TraceDataset(storage=storage, plan=plan, manifest=_manifest_of(storage, plan))
    _refuse_damaged(traces)
    return traces


def each_root(roots: TraceUris) -> tuple[Root, ...]:
    """The datasets one by one."""
    return roots if isinstance(roots, tuple) else (roots,)


def open_each(roots: TraceUris) -> list[TraceDataset]:
    """:func:`open_traces` of each dataset, in their order."""
    return [open_traces(root) for root in each_root(roots)]


def _manifest_of(storage: Storage, plan: dict[str, Any]) -> dict[str, Any]:
    manifest = newest_manifest(storage)
    if manifest is None:
        raise InputError(
            f"--traces must be a finished collection. Got {storage}, which has no manifest. "
            "Run its jobs/collect.py command again to finish it."
        )
    if manifest["plan_hash"] != plan["plan_hash"]:
        raise InputError(
            f"--traces must have a manifest of its plan {plan['plan_hash']}. Got one of "
            f"{manifest['plan_hash']} in {storage}. Restore it, or collect into a new folder."
        )
    return manifest


def _refuse_damaged(traces: TraceDataset) -> None:
    sizes = listed_sizes(traces.storage)
    for part in parts_of(traces.manifest):
        for table in TABLES:
            file = part["files"][table]
            if (size := sizes.get(key_of(table, file), 0)) != file["bytes"]:
                raise InputError(
                    f"Shard {traces.storage}/{key_of(table, file)} must have {file['bytes']} "
                    f"bytes. Got {size}. Run the jobs/collect.py command of this folder again to "
                    "collect it anew."
                )
