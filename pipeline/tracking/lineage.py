"""MLflow run ids of a traces folder, in a file that the next stage reads."""

from __future__ import annotations

import json

from pipeline.storage.json_schema import Malformed, parse
from pipeline.storage.object_store import Root, open_storage

LINEAGE = "lineage.json"


def read_lineage(root: Root) -> dict[str, str]:
    """Read the MLflow run ids of a traces folder, by stage; empty if it has none that read."""
    try:
        found = parse(open_storage(root).read(LINEAGE) or b"{}")
    except Malformed:
        return {}
    return {stage: run_id for stage, run_id in found.items() if isinstance(run_id, str)}


def write_lineage(root: Root, lineage: dict[str, str]) -> None:
    """Write the MLflow run ids into a traces folder, where the next stage reads them."""
    open_storage(root).write(LINEAGE, (json.dumps(lineage, indent=2) + "\n").encode())
