"""Arrow schemas of the trajectories table and the gates table; writing and reading their shards.

This is the only module that imports pyarrow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from dqar.records import FEATURES
from pipeline.errors import InputError
from pipeline.exploration.collect_plan import Unit
from pipeline.storage.file_errors import refusal_of
from pipeline.storage.local_folder import LocalFolder
from pipeline.storage.object_store import Root, Storage, open_storage
from pipeline.traces.document_digest import with_digest
from pipeline.traces.document_schemas import TABLES
from pipeline.traces.shards import commit_receipt

Table: TypeAlias = pa.Table
"""Arrow table."""
Batch: TypeAlias = pa.RecordBatch
"""Batch of rows of an Arrow table."""

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
        pa.field("feedback", pa.float32(), nullable=False),
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

SCHEMAS: dict[str, pa.Schema] = dict(zip(TABLES, (TRAJECTORIES, GATES), strict=True))
ROW_GROUP = 1 << 17
"""Rows in a row group of a merged shard, which is also what merging holds in memory."""


def to_table(columns: dict[str, Any], schema: pa.Schema) -> Table:
    """Convert columns to a table of a schema; a single value fills a column, NaN becomes null."""
    num_rows = max(len(column) for column in columns.values() if _is_sequence(column))
    full = {
        name: column if _is_sequence(column) else [column] * num_rows
        for name, column in columns.items()
    }
    arrays = [pa.array(full[field.name], type=field.type, from_pandas=True) for field in schema]
    return Table.from_arrays(arrays, schema=schema)


def _is_sequence(column: Any) -> bool:
    return hasattr(column, "__len__") and not isinstance(column, str)


def commit_unit(
    root: Root,
    unit: Unit,
    trajectories: dict[str, Any],
    gates: dict[str, Any],
    notes: dict[str, Any],
) -> dict[str, Any]:
    """Write a unit's shards, then its receipt.

    Args:
        root: the traces folder.
        unit: the unit.
        trajectories: columns of the trajectories table.
        gates: columns of the gates table.
        notes: further fields of the receipt.

    Returns:
        The receipt in storage; if an earlier attempt at the unit left a sound one, that one.
    """
    storage = open_storage(root)
    tables = {"trajectories": to_table(trajectories, TRAJECTORIES), "gates": to_table(gates, GATES)}
    files = {name: _write_shard(storage, name, unit, table) for name, table in tables.items()}
    receipt = {
        "unit_id": unit.unit_id,
        "index": unit.index,
        "trajectories": tables["trajectories"].num_rows,
        "gates": tables["gates"].num_rows,
        "files": files,
        "decision_digest": decision_digest(tables["gates"]),
        **notes,
    }
    return commit_receipt(storage, unit, with_digest(receipt))


def _write_shard(storage: Storage, name: str, unit: Unit, table: Table) -> dict[str, Any]:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    sha256 = hashlib.sha256(data).hexdigest()
    # The digest in the name keeps an attempt with other bytes from replacing a committed shard.
    file = {"name": f"{unit.unit_id}-{sha256[:16]}.parquet", "bytes": len(data), "sha256": sha256}
    storage.write(f"{name}/{file['name']}", data)
    return file


def decision_digest(gates: Table) -> str:
    """Return a digest of the actions and the random draws of all gates.

    Floats, which differ between devices, are left out.
    """
    digest = hashlib.sha256()
    for name in ("trajectory_id", "step", "layer", "site", "action", "draw_id"):
        column = gates[name].combine_chunks()
        digest.update(name.encode())
        digest.update("\n".join(map(str, column.to_pylist())).encode())
    return digest.hexdigest()


def as_table(name: str, batches: Iterable[Batch], columns: list[str] | None = None) -> Table:
    """Join batches of a table's rows to one table with the given columns of its schema, or all."""
    schema = SCHEMAS[name]
    wanted = schema if columns is None else pa.schema([schema.field(one) for one in columns])
    return Table.from_batches(list(batches), wanted)


def concatenated(tables: list[Table]) -> Table:
    """Concatenate tables of one schema without copying their rows."""
    return pa.concat_tables(tables)


def _opened(storage: Storage, key: str) -> Any:
    # Local files are opened by Arrow: its threads may outlive a Python file object at exit.
    if isinstance(storage, LocalFolder) and storage.size(key) is not None:
        return pa.OSFile(str(storage.path / key))
    return storage.open(key)


def scan_shards(
    storage: Storage,
    table: str,
    keys: list[str],
    columns: list[str] | None = None,
    *,
    only_reused: bool = False,
) -> Iterator[Batch]:
    """Yield the rows of some shards of a table in batches and in order, with page checksums
    verified.

    Args:
        storage: where the shards are.
        table: name of the table, ``trajectories`` or ``gates``.
        keys: storage keys of the shards.
        columns: names of the columns to read; None for all.
        only_reused: leave out the rows of gates that computed.

    Raises:
        InputError: naming a shard that is damaged or cannot be read.
    """
    condition = pc.field("action") != "compute" if only_reused else None
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    parquet = ds.ParquetFileFormat(default_fragment_scan_options=options)
    for key in keys:
        try:
            with _opened(storage, key) as file:
                # Arrow's default readahead would load a whole merged shard into memory.
                yield from parquet.make_fragment(file).to_batches(
                    columns=columns, filter=condition, schema=SCHEMAS[table], batch_readahead=2
                )
        except (pa.ArrowException, OSError) as error:
            raise _refusal_of_read(error, storage, key) from error


def _refusal_of_read(error: Exception, storage: Storage, key: str) -> InputError:
    """Return the refusal for an error while a shard was read; Arrow's own errors have no number."""
    if isinstance(error, OSError) and error.errno and isinstance(storage, LocalFolder):
        return refusal_of(error, storage.path / key)
    # An error of the disk may look like this too: the digest alone proves damage.
    return InputError(
        f"Shard {storage}/{key} must be a Parquet file with the checksums it was written with. Got "
        f"{' '.join(str(error).split())[:100]}. Nothing was changed. Run the jobs/collect.py "
        "command of its folder again, which compares the shard with its SHA-256, or restore the "
        "shard from a copy."
    )


def merge_shards(storage: Storage, table: str, keys: list[str], target: Path) -> int:
    """Write the rows of some shards, in order, as one local file; return the number of rows."""
    rows = 0
    with pq.ParquetWriter(
        target, SCHEMAS[table], compression="zstd", write_page_checksum=True
    ) as writer:
        for group in _grouped(scan_shards(storage, table, keys)):
            writer.write_table(group, row_group_size=ROW_GROUP)
            rows += group.num_rows
    return rows


def _grouped(batches: Iterable[Batch]) -> Iterator[Table]:
    held: list[Batch] = []
    for batch in batches:
        held.append(batch)
        if sum(one.num_rows for one in held) >= ROW_GROUP:
            yield Table.from_batches(held)
            held = []
    if held:
        yield Table.from_batches(held)
