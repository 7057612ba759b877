"""Dataclasses of the JSON documents of a traces folder, which are checked before they are used.

A document may have been cut short, edited by hand or written by a stranger. File names must match
the patterns here, so that nothing outside the folder is ever read or written. Fields that no
dataclass names are ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from pipeline.exploration.collect_plan import CollectPlan, Unit, digest_of_fields
from pipeline.storage.json_schema import Count, Malformed, check, text_like
from pipeline.traces.document_digest import check_digest, joint_digest

TABLES = ("trajectories", "gates")
UNIT_SHARD = re.compile(r"(?P<unit>[0-9a-f]{16})(-[0-9a-f]{16})?\.parquet")
"""Name of a unit's shard; the first release wrote it without a digest."""
MERGED_SHARD = re.compile(r"merged-[0-9]{6,12}-[0-9]{6,12}-[0-9a-f]{16}\.parquet")
LATER_FIELDS = {"forecast_orders", "feedbacks", "threads", "bases", "policy_digest"}
"""Fields that a plan of an earlier release lacks; plans that explore around no policy lack the last
two."""

Id = Annotated[str, text_like("16 hexadecimal digits", "[0-9a-f]{16}")]
Sha256 = Annotated[str, text_like("64 hexadecimal digits", "[0-9a-f]{64}")]
PolicyDigest = Annotated[str, text_like("24 hexadecimal digits or nothing", "([0-9a-f]{24})?")]
UnitName = Annotated[str, text_like("a unit's shard", UNIT_SHARD.pattern)]
ShardName = Annotated[
    str, text_like("a shard's name", f"{UNIT_SHARD.pattern}|{MERGED_SHARD.pattern}")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitFile:
    """A shard of one unit."""

    bytes: Count
    sha256: Sha256
    name: UnitName = ""
    """Empty in receipts of the first release."""

    def __post_init__(self) -> None:
        _refuse_other_name(self.name, self.sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitFiles:
    """Shards of one unit by table."""

    trajectories: UnitFile
    gates: UnitFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Rows and shards that the worker of one unit committed."""

    unit_id: Id
    index: Count
    trajectories: Count
    gates: Count
    files: UnitFiles
    decision_digest: Sha256

    def __post_init__(self) -> None:
        for file in (self.files.trajectories, self.files.gates):
            if file.name and not file.name.startswith(self.unit_id):
                raise ValueError(f"files must name shards of unit {self.unit_id}. Got {file.name}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PartFile:
    """A shard of one unit or of several that were merged."""

    bytes: Count
    sha256: Sha256
    name: ShardName

    def __post_init__(self) -> None:
        _refuse_other_name(self.name, self.sha256)


def _refuse_other_name(name: str, sha256: str) -> None:
    named = re.fullmatch(r".*-([0-9a-f]{16})\.parquet", name)
    if named and not sha256.startswith(named[1]):
        raise ValueError(f"sha256 must begin as the name of {name} ends. Got {sha256[:16]}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PartFiles:
    """Shards of one part by table."""

    trajectories: PartFile
    gates: PartFile


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestPart:
    """Units that lie in the same shards."""

    units: tuple[Count, ...]
    """Indices of the units."""
    files: PartFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Units of a dataset, facts about its model, and the parts that hold the units."""

    plan_hash: Id
    trajectories: Count
    gates: Count
    decision_digest: Id
    data_digest: Id
    num_layers: Count
    site_flops: dict[str, float]
    """FLOPs of one site, a row of the batch."""
    units: tuple[Receipt, ...]
    parts: Annotated[tuple[ManifestPart, ...], Field(min_length=1)] = ()
    """Left out by the first release, which merged no units."""

    def __post_init__(self) -> None:
        indices = [unit.index for unit in self.units]
        if indices != sorted(set(indices)):
            raise ValueError("units must hold each unit once, in order. Got others.")
        if self.parts and indices != [index for part in self.parts for index in part.units]:
            raise ValueError("parts must hold each of the units once, in order. Got others.")
        for table in TABLES:
            rows = getattr(self, table)
            if rows != sum(getattr(unit, table) for unit in self.units):
                raise ValueError(f"{table} must be the sum over all units. Got {rows}.")
        self._check_digests_of_units()

    def _check_digests_of_units(self) -> None:
        data = [getattr(unit.files, table).sha256 for unit in self.units for table in TABLES]
        if self.data_digest != (digest := joint_digest(data)):
            raise ValueError(f"data_digest must be that of the units, {digest}. Got another.")
        decisions = [unit.decision_digest for unit in self.units]
        if self.decision_digest != (digest := joint_digest(decisions)):
            raise ValueError(f"decision_digest must be that of the units, {digest}. Got another.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanDigests:
    """Digests in plan.json, whose other fields are those of :class:`CollectPlan`."""

    plan_hash: Id
    policy_digest: PolicyDigest = ""


def check_receipt(receipt: dict[str, Any], unit: Unit) -> None:
    """Check that a document is the receipt of a unit.

    Raises:
        Malformed: naming the field that is wrong.
    """
    found = check(receipt, Receipt)
    check_digest(receipt)
    if (found.unit_id, found.index) != (unit.unit_id, unit.index):
        raise Malformed(f"It must be the receipt of {unit}. Got that of {found.unit_id}.")
    if found.trajectories != len(unit):
        raise Malformed(f"trajectories must be the {len(unit)} of {unit}. Got others.")


def check_manifest(manifest: dict[str, Any]) -> None:
    """Check that a document is a manifest whose parts hold each of its units once, in order, and
    that no field was damaged.

    Raises:
        Malformed: naming the field that is wrong.
    """
    check(manifest, Manifest)
    check_digest(manifest)


def check_plan(document: dict[str, Any]) -> None:
    """Check that a document has a plan's fields and its hash, as
    :func:`pipeline.traces.commit.claim_output` writes them.

    Raises:
        Malformed: naming the field that is wrong.
    """
    digests = check(document, PlanDigests)
    given = {name: value for name, value in document.items() if name != "plan_hash"}
    plan = check(given, CollectPlan, extra="forbid")
    missing = plan.fields.keys() - given.keys()
    if missing - LATER_FIELDS:
        raise Malformed(f"It must hold {min(missing - LATER_FIELDS)!r}. Got no such key.")
    # Of the fields that are there: a plan of an earlier release lacks some.
    if (found := digest_of_fields(given)) != digests.plan_hash:
        raise Malformed(f"It must be the plan of hash {digests.plan_hash}. Got {found}.")


def plan_of(document: dict[str, Any]) -> CollectPlan:
    """Return the plan of a document, as :func:`check_plan` accepts it."""
    given = {name: value for name, value in document.items() if name != "plan_hash"}
    return check(given, CollectPlan)
