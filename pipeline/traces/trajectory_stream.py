"""Stream of the gates table in whole trajectories: blocks of NumPy arrays, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class GateBlock:
    """All rows of the gates table of some trajectories."""

    owner: np.ndarray
    """Index of each row's trajectory in the trajectories table, shape (rows,)."""
    columns: dict[str, np.ndarray]
    """Columns by name, shape (rows,); text columns are arrays of strings."""

    def __getitem__(self, rows: Any) -> GateBlock:
        chosen = {name: column[rows] for name, column in self.columns.items()}
        return GateBlock(owner=self.owner[rows], columns=chosen)


def whole_trajectories(
    batches: Iterable[Any], columns: list[str], ids: list[str]
) -> Iterator[GateBlock]:
    """Regroup batches of rows of the gates table into blocks of whole trajectories.

    Args:
        batches: Arrow record batches with the columns and ``trajectory_id``.
        columns: names of the columns to keep.
        ids: ids of all trajectories; the ``owner`` of a row is an index into this list.

    Raises:
        InputError: if the rows of a trajectory do not follow each other.
    """
    place = {trajectory_id: index for index, trajectory_id in enumerate(ids)}
    is_past = np.zeros(len(place), dtype=bool)
    held: GateBlock | None = None
    for batch in batches:
        if batch.num_rows == 0:
            continue
        block = _block(batch, columns, place)
        block = block if held is None else _joined(held, block)
        # The last trajectory of the batch may continue in the next batch.
        ends = np.flatnonzero(np.diff(block.owner)) + 1
        cut = int(ends[-1]) if len(ends) else 0
        held = block[cut:]
        if cut:
            yield _passed(block[:cut], is_past)
    if held is not None:
        yield _passed(held, is_past)


def _block(batch: Any, columns: list[str], place: dict[str, int]) -> GateBlock:
    ids, codes = _encoded(batch["trajectory_id"])
    owner = np.array([place[one] for one in ids], dtype=np.int64)[codes]
    return GateBlock(owner=owner, columns={name: _values(batch[name]) for name in columns})


def _values(column: Any) -> np.ndarray:
    # Text columns repeat few values: decoding each value once is faster than once a row.
    if str(column.type).startswith(("string", "dictionary")):
        names, codes = _encoded(column)
        return np.array(names)[codes]
    return column.to_numpy(zero_copy_only=False)


def _encoded(column: Any) -> tuple[list[str], np.ndarray]:
    encoded = column.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


def _joined(one: GateBlock, other: GateBlock) -> GateBlock:
    columns = {
        name: np.concatenate([column, other.columns[name]]) for name, column in one.columns.items()
    }
    return GateBlock(owner=np.concatenate([one.owner, other.owner]), columns=columns)


def _passed(block: GateBlock, is_past: np.ndarray) -> GateBlock:
    firsts = block.owner[np.flatnonzero(np.diff(block.owner, prepend=-1))]
    if is_past[firsts].any() or len(np.unique(firsts)) < len(firsts):
        raise InputError(
            "--traces must hold the rows of a trajectory one after the other in the gates table. "
            "Got a trajectory with rows of another one in between. Collect the traces again with "
            "this release."
        )
    is_past[firsts] = True
    return block
