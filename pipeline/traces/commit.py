"""Commit protocol of a traces folder: write the data files first, then publish a manifest.

The plan claims the folder. A unit's worker writes the unit's two shards, then a receipt that names
them; the driver then publishes a manifest version, and readers see only the shards that the newest
version names. Each file appears whole or not at all, on folders and object stores alike. Delta
Lake commits in the same way (Armbrust et al., VLDB 2020, https://doi.org/10.14778/3415478.3415560);
here a worker's receipt makes a unit resumable before the dataset is published.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pipeline.errors import InputError
from pipeline.exploration.collect_plan import (
    CollectPlan,
    Unit,
    canonical_json,
)
from pipeline.models.identity import describe_change
from pipeline.storage.json_schema import Malformed
from pipeline.storage.object_store import Root, Storage, open_storage
from pipeline.traces.document_digest import joint_digest
from pipeline.traces.document_schemas import TABLES, check_plan
from pipeline.traces.manifest import newest_manifest, publish_manifest, read_document
from pipeline.traces.shards import (
    Part,
    as_json,
    is_sound,
    parts_of,
    read_receipt,
    sound_receipt,
    unit_part,
)

T = TypeVar("T")
U = TypeVar("U")
RECEIPT = re.compile("[0-9a-f]{16}")
"""Id of a unit, which its receipt has as its name."""
CONCURRENT_REQUESTS = 16
"""Storage requests in flight while receipts are read and files are deleted."""


def claim_output(root: Root, plan: CollectPlan) -> None:
    """Claim a folder for a plan by creating ``plan.json``; nothing changes if the same plan has
    claimed the folder before.

    Raises:
        InputError: if the folder holds another plan, or files and no plan.
    """
    storage = open_storage(root)
    # The plan is the first file: a driver killed here leaves a folder that this plan may claim.
    while not is_claimed(storage, plan):
        wanted = _wanted(plan)
        _refuse_unreadable(wanted)
        storage.create("plan.json", as_json(wanted))


def is_claimed(root: Root, plan: CollectPlan) -> bool:
    """Return True if a folder is claimed for a plan, False if it may be.

    Raises:
        InputError: if the folder holds another plan, or files and no plan.
    """
    storage = open_storage(root)
    found = read_document(storage, "plan.json", lambda document: None)
    if found is None:
        refuse_other_contents(storage)
    else:
        _refuse_other_plan(found, _wanted(plan), storage)
    return found is not None


def _wanted(plan: CollectPlan) -> dict[str, Any]:
    return json.loads(canonical_json(_plan_document(plan)))


def _refuse_unreadable(document: dict[str, Any]) -> None:
    """Refuse, before anything is written, a plan that its own reader would refuse."""
    try:
        check_plan(document)
    except Malformed as error:
        raise InputError(f"The plan of a collection must be readable. {error}") from error


def refuse_other_contents(storage: Storage) -> None:
    """Refuse a folder without a plan that holds other files.

    Raises:
        InputError: if the folder is not empty.
    """
    if not storage.is_empty():
        raise InputError(
            f"--out must be a new folder or one that jobs/collect.py wrote. Got {storage}, which "
            "holds other files. Name another folder."
        )


def _plan_document(plan: CollectPlan) -> dict[str, Any]:
    return {**plan.fields, "plan_hash": plan.plan_hash}


def _refuse_other_plan(found: dict[str, Any], wanted: dict[str, Any], storage: Storage) -> None:
    if found == wanted:
        return
    changed = [
        describe_change(key, found.get(key), value)
        for key, value in wanted.items()
        if key != "plan_hash" and found.get(key) != value
    ]
    raise InputError(
        "--out must be a new folder or hold the same plan as this command's. Got "
        f"{storage}, collected with {', '.join(changed) or 'other fields'}. Name another folder, "
        "or repeat the command that began this collection."
    )


def committed_receipts(root: Root, plan: CollectPlan) -> dict[str, dict[str, Any]]:
    """Return the receipts of the finished units, by unit id.

    A unit is finished if its own shards, or those of a merged part that holds it, are sound.
    """
    storage = open_storage(root)
    plan_hash = plan.plan_hash
    # From what is there: the plan may have more units than can be listed.
    held = {
        unit_id: receipt
        for unit_id, receipt in _held_by_merged_parts(storage).items()
        if _unit_of(plan, plan_hash, receipt, unit_id) is not None
    }
    written = [name.removesuffix(".json") for name in storage.names("_receipts")]

    def find(unit_id: str) -> dict[str, Any] | None:
        receipt = read_receipt(storage, unit_id)
        unit = _unit_of(plan, plan_hash, receipt, unit_id)
        return None if unit is None else sound_receipt(storage, unit, receipt)

    left = [unit_id for unit_id in written if RECEIPT.fullmatch(unit_id) and unit_id not in held]
    found = held | dict(zip(left, map_concurrently(find, left), strict=True))
    receipts = [receipt for receipt in found.values() if receipt is not None]
    return {one["unit_id"]: one for one in sorted(receipts, key=lambda one: one["index"])}


def _unit_of(
    plan: CollectPlan, plan_hash: str, receipt: dict[str, Any] | None, unit_id: str
) -> Unit | None:
    """Return the unit of a plan that a receipt is for; None if it is for none of that id."""
    index = (receipt or {}).get("index")
    if type(index) is not int or not 0 <= index < plan.num_units:
        return None
    unit = plan.unit(index, plan_hash)
    return unit if unit.unit_id == unit_id else None


def _held_by_merged_parts(storage: Storage) -> dict[str, dict[str, Any]]:
    # Compaction deletes the shards of single units.
    manifest = newest_manifest(storage)
    if manifest is None:
        return {}
    merged = [part for part in parts_of(manifest) if len(part["units"]) > 1]
    sound = map_concurrently(lambda part: is_sound(storage, part), merged)
    held = {i for part, whole in zip(merged, sound, strict=True) if whole for i in part["units"]}
    return {unit["unit_id"]: unit for unit in manifest["units"] if unit["index"] in held}


def map_concurrently(work: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """Apply a function that waits for storage to every item in threads; results are in order."""
    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as pool:
        return list(pool.map(work, items))


def write_manifest(
    root: Root,
    plan: CollectPlan,
    receipts: dict[str, dict[str, Any]],
    model_facts: dict[str, Any],
) -> dict[str, Any]:
    """Publish the next manifest version, which readers see from then on, and return it.

    Args:
        receipts: of all units, by unit id.
        model_facts: number of layers and FLOPs of the sites, which training reads.

    Raises:
        InputError: if a shard is missing or another driver publishes at the same time.
    """
    storage = open_storage(root)
    units = sorted(receipts.values(), key=lambda receipt: receipt["index"])
    manifest = {
        "plan_hash": plan.plan_hash,
        "trajectories": sum(unit["trajectories"] for unit in units),
        "gates": sum(unit["gates"] for unit in units),
        "decision_digest": joint_digest([unit["decision_digest"] for unit in units]),
        "data_digest": joint_digest(
            [unit["files"][name]["sha256"] for unit in units for name in TABLES]
        ),
        **model_facts,
        "units": units,
        "parts": _parts(storage, units),
    }
    return publish_manifest(storage, manifest)


def _parts(storage: Storage, units: list[dict[str, Any]]) -> list[Part]:
    """Return the sound merged parts whose units did not change, and one part for each unit that
    is in none of them."""
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
