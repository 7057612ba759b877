"""Receipts: one a unit, created once, after the unit's shards. The first that is sound counts."""

from __future__ import annotations

import json
from typing import Any

from pipeline.exploration.collect_plan import Unit
from pipeline.storage.json_schema import Malformed, parse
from pipeline.storage.object_store import Storage
from pipeline.traces.document_schemas import check_receipt
from pipeline.traces.shards import is_sound, unit_part


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
