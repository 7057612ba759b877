"""Handles of finished trace datasets: opened and checked once, then passed along.

Readers take a :class:`Traces`: either a :class:`TraceDataset`, which is one collection, or a
:class:`pipeline.traces.multi_dataset.MultiTraceDataset`, which reads several collections in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pipeline.errors import InputError
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.models.noise import round_seed
from pipeline.storage.object_store import Root, Storage, open_storage
from pipeline.traces.document_schemas import TABLES, check_plan, plan_of
from pipeline.traces.manifest import newest_manifest, read_document
from pipeline.traces.shards import files_of, key_of, listed_sizes, parts_of
from pipeline.traces.tables import Batch, Table, as_table, concatenated, scan_shards
from pipeline.traces.trajectory_stream import GateBlock, whole_trajectories
from pipeline.traces.verified_files import verify_files


class Traces(ABC):
    """Finished trajectories and their reuse decisions (the gates table).

    The trajectories table is read once and kept in memory. The gates table has one row for each
    step, layer and site of a trajectory, and is streamed.
    """

    plan: dict[str, Any]
    """Fields that the plans of all parts share."""
    manifest: dict[str, Any]
    """Manifest of the first part; its facts about the model hold for all parts."""

    @property
    @abstractmethod
    def parts(self) -> tuple[TraceDataset, ...]:
        """The datasets, in the order in which they are read."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Digest of the shards of all parts as they were collected, in the order of the parts."""

    @property
    def forecast_orders(self) -> tuple[int, ...]:
        """Forecast orders that any part explored, ascending."""
        # Plans of the first release have no forecast orders.
        orders = (order for part in self.parts for order in part.plan.get("forecast_orders", [0]))
        return tuple(sorted(set(orders)))

    @property
    def feedbacks(self) -> tuple[float, ...]:
        """Gains of error feedback that any part explored, ascending."""
        gains = (gain for part in self.parts for gain in part.plan.get("feedbacks", [0.0]))
        return tuple(sorted(set(gains)))

    @cached_property
    def trajectories(self) -> Table:
        """Table of all trajectories, one row each, in the order of the plans."""
        return concatenated([part.trajectories for part in self.parts])

    @cached_property
    def noise_index(self) -> Int[ndarray, " trajectories"]:
        """Index of the noise sample that each trajectory starts from.

        Two collections share their noise samples if they have the same seed and explore around
        the same policy, or both around none; otherwise their noise samples differ.
        """
        seeds: list[int] = []
        keys = []
        for part in self.parts:
            seed = round_seed(part.plan["seed"], part.plan.get("policy_digest", ""))
            seeds += [] if seed in seeds else [seed]
            ids = part.trajectories["noise_id"].to_numpy()
            keys.append(np.stack([np.full_like(ids, seeds.index(seed)), ids]))
        return np.unique(np.concatenate(keys, axis=1), axis=1, return_inverse=True)[1].reshape(-1)

    def verify(self, tables: tuple[str, ...] = TABLES) -> None:
        """Compare the files of some tables with the digests of the manifests, before any row of
        them is used; files that this machine verified before are not read again.

        Raises:
            InputError: naming a file with other contents.
        """
        for part in self.parts:
            part.verify(tables)

    def stream_gates(
        self, columns: list[str] | None = None, *, only_reused: bool = False
    ) -> Iterator[Batch]:
        """Yield the gates table in batches of rows, shard after shard, in bounded memory.

        Args:
            columns: names of the columns to read; None for all.
            only_reused: leave out the rows of gates that computed.
        """
        for part in self.parts:
            part.verify(("gates",))
            keys = part.shards("gates")
            yield from scan_shards(part.storage, "gates", keys, columns, only_reused=only_reused)

    def read_gates(self, columns: list[str] | None = None) -> Table:
        """Read the gates table, or some of its columns, into memory."""
        return as_table("gates", self.stream_gates(columns), columns)

    def whole_trajectories(self, columns: list[str]) -> Iterator[GateBlock]:
        """Yield the gates table in blocks of whole trajectories.

        Args:
            columns: names of the columns to read.

        Raises:
            InputError: if the rows of a trajectory do not follow each other.
        """
        ids = self.trajectories["trajectory_id"].to_pylist()
        batches = self.stream_gates(["trajectory_id", *columns])
        return whole_trajectories(batches, columns, ids)

    def __str__(self) -> str:
        return ", ".join(part.uri for part in self.parts)


# Without slots: a cached property needs a dictionary.
@dataclass(frozen=True, kw_only=True)
class TraceDataset(Traces):
    """A finished collection: its plan, and the manifest that names its shards."""

    uri: str
    """The folder or URI, as it was given."""
    storage: Storage
    """Storage that holds the dataset's files."""
    plan: dict[str, Any]
    """All fields of the plan, with the plan's hash."""
    manifest: dict[str, Any]
    """The manifest version that was the newest when the dataset was opened."""
    verified: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    """Names of the tables whose files were compared with their digests."""

    @property
    def parts(self) -> tuple[TraceDataset, ...]:
        """Tuple of this dataset alone."""
        return (self,)

    @property
    def digest(self) -> str:
        """Digest of the shards as they were collected; compaction does not change it."""
        return self.manifest["data_digest"]

    @cached_property
    def trajectories(self) -> Table:
        """Table of all trajectories, one row each, in the order of the plan."""
        self.verify(("trajectories",))
        rows = scan_shards(self.storage, "trajectories", self.shards("trajectories"))
        return as_table("trajectories", rows)

    def verify(self, tables: tuple[str, ...] = TABLES) -> None:
        """Compare the files of some tables with the digests of the manifest."""
        left = [table for table in tables if table not in self.verified]
        parts = parts_of(self.manifest)
        if left:
            files = {key: file for one in left for key, file in files_of(parts, one).items()}
            verify_files(self.storage, files)
            self.verified.update(left)

    def shards(self, table: str) -> list[str]:
        """Return the storage keys of one table's files, in the order of their units."""
        return list(files_of(parts_of(self.manifest), table))


def open_dataset(root: Root) -> TraceDataset:
    """Read the plan and the newest manifest of one collection, and check its shards.

    Raises:
        InputError: if a file is missing, empty, of another schema version or truncated; the
            message names the file and the fix.
    """
    storage = open_storage(root)
    plan = read_document(storage, "plan.json", check_plan)
    if plan is None:
        raise InputError(
            f"--traces must be a folder that jobs/collect.py wrote. Got {root}, which "
            "holds no plan.json. Check the path."
        )
    manifest = _manifest_of(storage, plan)
    dataset = TraceDataset(uri=str(root), storage=storage, plan=plan, manifest=manifest)
    _refuse_damaged(dataset)
    return dataset


def _manifest_of(storage: Storage, plan: dict[str, Any]) -> dict[str, Any]:
    manifest = newest_manifest(storage)
    if manifest is None:
        raise InputError(
            f"--traces must be a finished collection. Got {storage}, which has no manifest. "
            "Run the jobs/collect.py command of this folder again to finish the collection."
        )
    if manifest["plan_hash"] != plan["plan_hash"]:
        raise InputError(
            f"--traces must have a manifest of its plan, with plan hash {plan['plan_hash']}. Got a "
            f"manifest with plan hash {manifest['plan_hash']} in {storage}. Restore the file that "
            "was replaced, or collect into a new folder."
        )
    _refuse_other_units(storage, manifest, plan)
    return manifest


def _refuse_other_units(storage: Storage, manifest: dict[str, Any], plan: dict[str, Any]) -> None:
    planned, units = plan_of(plan), manifest["units"]
    # One by one: a damaged plan may have more units than can be listed.
    kept = sum(_is_planned(planned, plan["plan_hash"], unit) for unit in units)
    if not kept == len(units) == planned.num_units:
        raise InputError(
            f"--traces must have a manifest with the {planned.num_units} units of its plan, in "
            f"order. Got {len(units)} units, of which {kept} are in the plan, in {storage}. "
            "Restore the manifest, or collect into a new folder."
        )


def _is_planned(plan: CollectPlan, plan_hash: str, found: dict[str, Any]) -> bool:
    if not 0 <= found["index"] < plan.num_units:
        return False
    unit = plan.unit(found["index"], plan_hash)
    return (unit.unit_id, len(unit)) == (found["unit_id"], found["trajectories"])


def _refuse_damaged(dataset: TraceDataset) -> None:
    sizes = listed_sizes(dataset.storage)
    for part in parts_of(dataset.manifest):
        for table in TABLES:
            file = part["files"][table]
            if (size := sizes.get(key_of(table, file), 0)) != file["bytes"]:
                raise InputError(
                    f"Shard {dataset.storage}/{key_of(table, file)} must have {file['bytes']} "
                    f"bytes. Got {size} bytes. Run the jobs/collect.py command of this folder "
                    "again to collect the shard's trajectories again."
                )
