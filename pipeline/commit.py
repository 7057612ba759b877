"""What exists in a traces folder: the plan that claims it, receipts, the manifest.

A unit writes its two shards, then its receipt; each file appears by atomic rename. The manifest
names the shards that exist for a reader. A killed writer leaves at most files whose names begin
with an underscore, which nobody reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.door import Refusal
from pipeline.plan import TRACE_SCHEMA_VERSION, CollectPlan, Unit, canonical_json

TABLES = ("trajectories", "gates")


@dataclass(frozen=True, kw_only=True, slots=True)
class Traces:
    """A finished dataset: its plan and the manifest that names its shards."""

    root: Path
    plan: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def digest(self) -> str:
        """Digest of the floats: equal files, equal digest."""
        return self.manifest["data_digest"]

    def shards(self, table: str) -> list[str]:
        """Paths of one table's shards, in the order of the units."""
        return [
            str(self.root / table / f"{unit['unit_id']}.parquet") for unit in self.manifest["units"]
        ]


def local_root(uri: str) -> Path:
    """The folder behind a URI.

    Raises:
        Refusal: for storage that this release cannot write to.
    """
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    if "://" in uri:
        raise Refusal(
            f"Traces must lie in a folder that every worker shares. Got {uri!r}. "
            "Pass a path or a file:// URI."
        )
    return Path(uri)


def claim_folder(root: Path, plan: CollectPlan) -> None:
    """Take a folder for a plan, or find it taken for the same one (resume).

    Raises:
        Refusal: if the folder holds another plan, or something that is not a dataset.
    """
    if root.exists() and not root.is_dir():
        raise Refusal(f"--out must be a folder. Got {root}, which is a file. Name another.")
    path = root / "plan.json"
    wanted = json.loads(canonical_json(_plan_document(plan)))
    if path.exists():
        _refuse_other_plan(_read_json(path), wanted, root)
    elif root.exists() and any(not entry.name.startswith("_") for entry in root.iterdir()):
        raise Refusal(
            f"--out must be a new folder or a collection's. Got {root}, which holds "
            "other files. Name another folder."
        )
    root.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # First, so that a driver killed here leaves a folder that the same plan may claim.
        publish_text(path, json.dumps(wanted, indent=2) + "\n")
    for folder in (*TABLES, "_receipts", "_manifest"):
        (root / folder).mkdir(exist_ok=True)


def _plan_document(plan: CollectPlan) -> dict[str, Any]:
    fields = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    return {**fields, "plan_hash": plan.plan_hash}


def _refuse_other_plan(found: dict[str, Any], wanted: dict[str, Any], root: Path) -> None:
    if found.get("plan_hash") == wanted["plan_hash"]:
        return
    changed = [
        f"{key} {found.get(key)!r} not {value!r}"
        for key, value in wanted.items()
        if key != "plan_hash" and found.get(key) != value
    ]
    raise Refusal(
        f"--out must hold the same plan. Got {root}, collected with {', '.join(changed)}. "
        "Name another folder, or repeat the first command."
    )


def publish_text(target: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    temporary = target.with_name(f"_{target.name}.{uuid.uuid4().hex}")
    temporary.write_text(text)
    publish_file(temporary, target)


def publish_file(temporary: Path, target: Path) -> None:
    """Give a finished temporary file its name."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, target)


def receipt_path(root: Path, unit: Unit) -> Path:
    """Where a unit's receipt lies."""
    return root / "_receipts" / f"{unit.unit_id}.json"


def committed_receipts(root: Path, plan: CollectPlan) -> dict[str, dict[str, Any]]:
    """Receipts of the units that are done: the receipt reads and its shards are what it says."""
    receipts = {}
    for unit in plan.units():
        receipt = _read_receipt(receipt_path(root, unit))
        if receipt is not None and all(_is_same(root, name, receipt) for name in TABLES):
            receipts[unit.unit_id] = receipt
    return receipts


def _read_receipt(path: Path) -> dict[str, Any] | None:
    # One that does not read is none: its unit is collected again.
    try:
        receipt = json.loads(path.read_text())
        return receipt if set(TABLES) <= set(receipt["files"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_same(root: Path, table: str, receipt: dict[str, Any]) -> bool:
    if not _is_whole(root, table, receipt):
        return False
    data = (root / table / f"{receipt['unit_id']}.parquet").read_bytes()
    return hashlib.sha256(data).hexdigest() == receipt["files"][table]["sha256"]


def _is_whole(root: Path, table: str, receipt: dict[str, Any]) -> bool:
    path = root / table / f"{receipt['unit_id']}.parquet"
    return path.exists() and path.stat().st_size == receipt["files"][table]["bytes"]


def write_manifest(
    root: Path,
    plan: CollectPlan,
    receipts: dict[str, dict[str, Any]],
    model_facts: dict[str, Any],
) -> dict[str, Any]:
    """Publish the next manifest version; only what it names exists for a reader.

    ``model_facts`` are what training needs to know of the model: its depth, its sites' FLOPs.
    """
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
    }
    latest = _latest_manifest(root)
    if latest is not None and _read_json(latest) == manifest:
        return manifest
    version = 1 if latest is None else int(latest.stem[1:]) + 1
    target = root / "_manifest" / f"v{version:06d}.json"
    publish_text(target, json.dumps(manifest, indent=2) + "\n")
    return manifest


def _digest_of(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _latest_manifest(root: Path) -> Path | None:
    versions = sorted((root / "_manifest").glob("v[0-9]*.json"))
    return versions[-1] if versions else None


def open_traces(uri: str) -> Traces:
    """Find a dataset's manifest and check its shards.

    Raises:
        Refusal: naming what is missing, empty, of another version or truncated, and the mend.
    """
    root = local_root(uri)
    if not (root / "plan.json").exists():
        raise Refusal(
            f"--traces must be a folder that jobs/collect.py wrote. Got {uri}, which "
            "holds no plan.json. Check the path."
        )
    latest = _latest_manifest(root)
    if latest is None:
        raise Refusal(
            f"--traces must be a finished collection. Got {uri}, which has no manifest. "
            "Run its jobs/collect.py command again to finish it."
        )
    manifest = _read_json(latest)
    if manifest.get("schema_version") != TRACE_SCHEMA_VERSION:
        raise Refusal(
            f"--traces must have schema version {TRACE_SCHEMA_VERSION}. Got "
            f"{manifest.get('schema_version')!r} in {latest}. Collect again with this release."
        )
    if not manifest.get("units"):
        raise Refusal(
            f"--traces must hold trajectories. Got an empty collection in {uri}. "
            "Run jobs/collect.py with --num-trajectories above 0."
        )
    traces = Traces(root=root, plan=_read_json(root / "plan.json"), manifest=manifest)
    _refuse_damaged(traces)
    return traces


def _refuse_damaged(traces: Traces) -> None:
    for unit in traces.manifest["units"]:
        for name in TABLES:
            if not _is_whole(traces.root, name, unit):
                path = traces.root / name / f"{unit['unit_id']}.parquet"
                size = path.stat().st_size if path.exists() else 0
                raise Refusal(
                    f"Shard {path} must have {unit['files'][name]['bytes']} bytes. Got {size}. "
                    "Run the jobs/collect.py command of this folder again to collect it anew."
                )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Refusal(
            f"{path} must be JSON. Got: {error}. Restore it, or collect into a new folder."
        ) from error
    if not isinstance(document, dict):
        raise Refusal(f"{path} must be a JSON object. Got {type(document).__name__}. Restore it.")
    return document
