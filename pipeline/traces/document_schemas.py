"""Schemas of the JSON documents of a traces folder, which are checked before they are used.

A document may have been cut short, edited by hand or written by a stranger. File names must match
the patterns here, so that nothing outside the folder is ever read or written.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from pipeline.exploration.collect_plan import CollectPlan, Unit
from pipeline.models.sampling_choices import Dtype, Sampler
from pipeline.storage.json_schema import (
    COUNT,
    NUMBER,
    NUMBERS,
    TEXT,
    WHOLE,
    Malformed,
    check,
    one_of,
    text_kind,
)

TABLES = ("trajectories", "gates")
ID = text_kind("16 hexadecimal digits", "[0-9a-f]{16}")
SHA256 = text_kind("64 hexadecimal digits", "[0-9a-f]{64}")
UNIT_SHARD = re.compile(r"(?P<unit>[0-9a-f]{16})(-[0-9a-f]{16})?\.parquet")
"""Name of a unit's shard; the first release wrote it without a digest."""
MERGED_SHARD = re.compile(r"merged-[0-9]{6,12}-[0-9]{6,12}-[0-9a-f]{16}\.parquet")
_NAME = rf"{UNIT_SHARD.pattern}|{MERGED_SHARD.pattern}"
ENTRY = {"bytes": COUNT, "sha256": SHA256}
PART_FILE = {**ENTRY, "name": text_kind("a shard's name", _NAME)}
UNIT_FILE = {
    **ENTRY,
    "name": text_kind("a unit's shard", UNIT_SHARD.pattern, may_lack=True),
}
RECEIPT = {
    "unit_id": ID,
    "index": COUNT,
    "trajectories": COUNT,
    "gates": COUNT,
    "files": dict.fromkeys(TABLES, UNIT_FILE),
    "decision_digest": SHA256,
}
PART = {"units": [COUNT], "files": dict.fromkeys(TABLES, PART_FILE)}
MANIFEST = {
    "plan_hash": ID,
    "trajectories": COUNT,
    "gates": COUNT,
    "decision_digest": ID,
    "data_digest": ID,
    "num_layers": COUNT,
    "site_flops": NUMBERS,
    "units": [RECEIPT],
}
PLAN = {
    "plan_hash": ID,
    "model": TEXT,
    "model_hash": TEXT,
    **dict.fromkeys(("num_trajectories", "masks_per_noise", "batch_size", "steps"), COUNT),
    "guidance_scale": NUMBER,
    "sampler": one_of(*get_args(Sampler)),
    "sites": [TEXT],
    "designs": [TEXT],
    "branch_mode": TEXT,
    "cache_bits": COUNT,
    "dtype": one_of(*get_args(Dtype)),
    "seed": WHOLE,
    "schema_version": COUNT,
}
LATER_FIELDS = {
    "forecast_orders": [COUNT],
    "feedbacks": [NUMBER],
    "threads": COUNT,
    "bases": [[COUNT]],
    "policy_digest": text_kind("24 hexadecimal digits or nothing", "([0-9a-f]{24})?"),
}
"""Fields that a plan of an earlier release lacks; plans that explore around no policy lack the last
two."""


def check_receipt(receipt: dict[str, Any], unit: Unit) -> None:
    """Check that a document is the receipt of a unit.

    Raises:
        Malformed: naming the field that is wrong.
    """
    _check_receipt(receipt)
    if (receipt["unit_id"], receipt["index"]) != (unit.unit_id, unit.index):
        raise Malformed(f"must be the receipt of {unit}, not of {receipt['unit_id']}")
    if receipt["trajectories"] != len(unit):
        raise Malformed(f"must hold the {len(unit)} trajectories of {unit}")


def _check_receipt(receipt: dict[str, Any]) -> None:
    check(receipt, RECEIPT)
    for table in TABLES:
        name = receipt["files"][table].get("name", receipt["unit_id"])
        if not name.startswith(receipt["unit_id"]):
            raise Malformed(f"must name a shard of its unit in files.{table}, not {name}")


def check_manifest(manifest: dict[str, Any]) -> None:
    """Check that a document is a manifest whose parts hold each of its units once, in order.

    Raises:
        Malformed: naming the field that is wrong.
    """
    check(manifest, MANIFEST)
    for receipt in manifest["units"]:
        _check_receipt(receipt)
    indices = [unit["index"] for unit in manifest["units"]]
    if indices != sorted(set(indices)):
        raise Malformed("must hold each unit once, in order, in units")
    for table in TABLES:
        if manifest[table] != sum(unit[table] for unit in manifest["units"]):
            raise Malformed(f"must hold the sum over its units in {table}, not {manifest[table]}")
    if "parts" in manifest:
        check(manifest["parts"], [PART], "parts")
        if indices != [index for part in manifest["parts"] for index in part["units"]]:
            raise Malformed("must hold each of its units once, in order, in parts")


def check_plan(document: dict[str, Any]) -> None:
    """Check that a document has a plan's fields and its hash, as
    :func:`pipeline.traces.commit.claim_output` writes them.

    Raises:
        Malformed: naming the field that is wrong.
    """
    check(document, PLAN)
    for name, shape in LATER_FIELDS.items():
        if name in document:
            check(document[name], shape, name)
    given = {name: value for name, value in document.items() if name != "plan_hash"}
    try:
        plan = CollectPlan(**{name: _frozen(value) for name, value in given.items()})
    except (TypeError, ValueError) as error:
        raise Malformed(f"must be a plan: {error}") from error
    # A plan of an earlier release lacks fields, and its hash is not of these.
    if plan.fields.keys() <= given.keys() and plan.plan_hash != document["plan_hash"]:
        raise Malformed(f"must be the plan of hash {document['plan_hash']}, not {plan.plan_hash}")


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
