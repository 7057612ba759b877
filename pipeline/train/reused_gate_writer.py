"""Writer of the reused gates of a dataset to a file of float32 rows, in one pass."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from pipeline.traces.dataset import Traces
from pipeline.traces.trajectory_stream import GateBlock
from pipeline.train.gate_accumulators import reused
from pipeline.train.gate_table import ReusedGates, StoredGates


class ReusedGateWriter:
    """Accumulator that writes the features and the weight of each reused gate to a file.

    Gates of a trajectory with equal features become one weighted row. Use as a context manager,
    which closes the file.

    Args:
        traces: dataset whose gates are read.
        names: features of a row.
        sites: sites whose gates are written.
        folder: existing folder for the file.
    """

    def __init__(
        self, traces: Traces, names: tuple[str, ...], sites: tuple[str, ...], folder: Path
    ) -> None:
        self.columns = tuple(dict.fromkeys(("action", "site", *names)))
        self._traces, self._names, self._sites = traces, names, sites
        self._path, self._width = folder / "reused.f32", len(names) + 1
        self._stream = self._path.open("wb")
        # For each trajectory: its first row, its number of rows, its number of gates.
        self._spans = np.zeros((3, traces.trajectories.num_rows))

    def __enter__(self) -> ReusedGateWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()

    def add(self, block: GateBlock) -> None:
        """Write the reused gates of a block."""
        wanted = block[reused(block) & np.isin(block.columns["site"], self._sites)]
        if not len(wanted.owner):
            return
        rows, owner = _rows(wanted, self._names)
        trajectories, first, count = np.unique(owner, return_index=True, return_counts=True)
        self._spans[0, trajectories] = first + self._stream.tell() // (4 * self._width)
        self._spans[1, trajectories] = count
        np.add.at(self._spans[2], owner, rows[:, -1])
        rows.tofile(self._stream)
        self._stream.flush()

    def stored(self) -> StoredGates:
        """Return the table on disk, with final error and noise sample of each trajectory."""
        error = torch.tensor(self._traces.trajectories["latent_rel_l2"].to_numpy())
        return StoredGates(
            path=self._path,
            width=self._width,
            start=torch.from_numpy(self._spans[0]).long(),
            num_rows=torch.from_numpy(self._spans[1]).long(),
            num_gates=torch.from_numpy(self._spans[2]).float(),
            squared_error=error.square(),
            noise=torch.from_numpy(self._traces.noise_index),
        )


def _rows(block: GateBlock, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the features and weight of each row, and the trajectory of each row."""
    features = np.stack([block.columns[name] for name in names], axis=1)
    weight, owner = np.ones(len(features), dtype=np.float32), block.owner
    if "depth" in names:
        return np.concatenate([features, weight[:, None]], axis=1), owner
    # Gates of a step are adjacent: merging neighbours first leaves few rows to sort.
    starts = np.flatnonzero(_differs(owner[:, None]) | _differs(features))
    first, place = np.unique(owner[starts], return_inverse=True)
    gates = ReusedGates(
        features=torch.from_numpy(features[starts]),
        trajectory=torch.from_numpy(place),
        squared_error=torch.zeros(len(first)),
        noise=torch.arange(len(first)),
        weight=torch.from_numpy(np.add.reduceat(weight, starts)),
    ).collapsed()
    rows = torch.cat([gates.features, gates.weight[:, None]], dim=1)
    return rows.numpy(), first[gates.trajectory.numpy()]


def _differs(rows: np.ndarray) -> np.ndarray:
    """Return the mask of the rows that differ from the row before."""
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return is_first
