"""Traces on disk: two Arrow tables, written shard by shard. The only room with pyarrow."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dqar.records import FEATURES
from pipeline.commit import Traces, open_traces, publish_file, publish_text, receipt_path
from pipeline.plan import Unit

TRAJECTORIES = pa.schema(
    [
        pa.field("trajectory_id", pa.string(), nullable=False),
        pa.field("noise_id", pa.int64(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("prompt", pa.string()),
        pa.field("prompt_length", pa.int32(), nullable=False),
        pa.field("design", pa.string(), nullable=False),
        pa.field("exploration_rate", pa.float32(), nullable=False),
        pa.field("max_gap", pa.int32(), nullable=False),
        pa.field("forecast_order", pa.int32(), nullable=False),
        pa.field("latent_rel_l2", pa.float32(), nullable=False),
        pa.field("psnr", pa.float32(), nullable=False),
        pa.field("ssim", pa.float32(), nullable=False),
        pa.field("feature_distance", pa.float32()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_hash", pa.string(), nullable=False),
        pa.field("sampler", pa.string(), nullable=False),
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("guidance", pa.float32(), nullable=False),
        pa.field("cache_mode", pa.string(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
        pa.field("schema_version", pa.int32(), nullable=False),
    ]
)

GATES = pa.schema(
    [
        pa.field("trajectory_id", pa.string(), nullable=False),
        pa.field("step", pa.int16(), nullable=False),
        pa.field("timestep", pa.float32(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("site", pa.string(), nullable=False),
        pa.field("branch_mode", pa.string(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in FEATURES),
        pa.field("eligible", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("propensity", pa.float32(), nullable=False),
        pa.field("draw_id", pa.int32(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("local_rel_error", pa.float32()),
    ]
)

SCHEMAS = {"trajectories": TRAJECTORIES, "gates": GATES}


def to_table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """Columns as a table of the schema; one value stands for all rows, NaN for null."""
    num_rows = max(len(column) for column in columns.values() if _is_sequence(column))
    full = {
        name: column if _is_sequence(column) else [column] * num_rows
        for name, column in columns.items()
    }
    arrays = [pa.array(full[field.name], type=field.type, from_pandas=True) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _is_sequence(column: Any) -> bool:
    return hasattr(column, "__len__") and not isinstance(column, str)


def commit_unit(
    root: Path,
    unit: Unit,
    trajectories: dict[str, Any],
    gates: dict[str, Any],
    notes: dict[str, Any],
) -> dict[str, Any]:
    """Write a unit's shards, then its receipt, which is returned."""
    tables = {"trajectories": to_table(trajectories, TRAJECTORIES), "gates": to_table(gates, GATES)}
    files = {name: _publish_shard(root, name, unit, table) for name, table in tables.items()}
    receipt = {
        "unit_id": unit.unit_id,
        "index": unit.index,
        "trajectories": tables["trajectories"].num_rows,
        "gates": tables["gates"].num_rows,
        "files": files,
        "decision_digest": decision_digest(tables["gates"]),
        **notes,
    }
    publish_text(receipt_path(root, unit), json.dumps(receipt, indent=2) + "\n")
    return receipt


def _publish_shard(root: Path, name: str, unit: Unit, table: pa.Table) -> dict[str, Any]:
    target = root / name / f"{unit.unit_id}.parquet"
    temporary = target.with_name(f"_{target.name}.{uuid.uuid4().hex}")
    pq.write_table(table, temporary, compression="zstd")
    data = temporary.read_bytes()
    publish_file(temporary, target)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def decision_digest(gates: pa.Table) -> str:
    """Digest of what was decided, free of floats that a device could change."""
    digest = hashlib.sha256()
    for name in ("trajectory_id", "step", "layer", "site", "action", "draw_id"):
        column = gates[name].combine_chunks()
        digest.update(name.encode())
        digest.update("\n".join(map(str, column.to_pylist())).encode())
    return digest.hexdigest()


def read_trajectories(uri: str) -> pa.Table:
    """All trajectories that the manifest names, in the order of the plan."""
    return _dataset(open_traces(uri), "trajectories").to_table()


def read_gates(uri: str, columns: list[str] | None = None) -> pa.Table:
    """All gates that the manifest names; joins with trajectories on ``trajectory_id``."""
    return _dataset(open_traces(uri), "gates").to_table(columns=columns)


def stream_gates(
    uri: str, columns: list[str] | None = None, *, only_reused: bool = False
) -> Iterator[pa.RecordBatch]:
    """Gates batch by batch, shard after shard, in bounded memory."""
    condition = pc.field("action") != "compute" if only_reused else None
    for shard in _dataset(open_traces(uri), "gates").get_fragments():
        yield from shard.to_batches(columns=columns, filter=condition, schema=GATES)


def _dataset(traces: Traces, table: str) -> ds.FileSystemDataset:
    found = ds.dataset(traces.shards(table), schema=SCHEMAS[table], format="parquet")
    assert isinstance(found, ds.FileSystemDataset)
    return found
