"""Streams of gates regrouped by trajectory: blocks of rows as NumPy arrays, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class GateBlock:
    """All gates of some trajectories, one row each."""

    owner: np.ndarray
    """Index of each row's trajectory in the table of trajectories."""
    columns: dict[str, np.ndarray]
    """Columns by name; texts as an array of strings."""

    def __getitem__(self, rows: Any) -> GateBlock:
        chosen = {name: column[rows] for name, column in self.columns.items()}
        return GateBlock(owner=self.owner[rows], columns=chosen)


def whole_trajectories(
    batches: Iterable[Any], columns: list[str], ids: list[str]
) -> Iterator[GateBlock]:
    """Regroup batches of gates into blocks, none of which ends within a trajectory.

    Args:
        batches: Arrow record batches with the columns and ``trajectory_id``.
        ids: ids of all trajectories; a block's ``owner`` is an index into them.

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
        # The last trajectory may go on in the next batch.
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
    # Texts repeat: a few are made into strings, and not one a row.
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
