"""Tables of the reused gates of some trajectories, in memory or on disk.

A gate is one (step, layer, site) of a trajectory. Gates of a trajectory with equal features may be
merged into one row with a weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ReusedGates:
    """Reused gates of some trajectories in memory, and the final error of each trajectory."""

    features: Float[Tensor, "gates f"]
    """Unscaled features of each row."""
    trajectory: Int[Tensor, " gates"]
    """Index of the trajectory of each row."""
    squared_error: Float[Tensor, " trajectories"]
    """D^2: squared relative L2 distance of the final latent to the reference sample's."""
    noise: Int[Tensor, " trajectories"]
    """Index of the noise sample that a trajectory starts from."""
    weight: Float[Tensor, " gates"]
    """Number of gates that each row stands for."""

    @property
    def log_error(self) -> Float[Tensor, " trajectories"]:
        """log D^2, with D^2 at least 1e-12, so that a trajectory without error is finite."""
        return _log_error(self.squared_error)

    @property
    def num_rows(self) -> Int[Tensor, " trajectories"]:
        """Number of rows of each trajectory."""
        return torch.bincount(self.trajectory, minlength=len(self.squared_error))

    @property
    def num_gates(self) -> Float[Tensor, " trajectories"]:
        """Number of gates that the rows of each trajectory stand for."""
        count = len(self.squared_error)
        return torch.zeros(count).index_add(0, self.trajectory, self.weight)

    def subset(self, chosen: Bool[Tensor, " trajectories"]) -> ReusedGates:
        """Return some of the trajectories with their gates."""
        of_gate = chosen[self.trajectory]
        renumbered = chosen.long().cumsum(0) - 1
        return ReusedGates(
            features=self.features[of_gate],
            trajectory=renumbered[self.trajectory[of_gate]],
            squared_error=self.squared_error[chosen],
            noise=_renumbered(self.noise[chosen]),
            weight=self.weight[of_gate],
        )

    def load(self) -> ReusedGates:
        """Return this table, which is in memory already."""
        return self

    def with_features(self, features: Float[Tensor, "gates f"]) -> ReusedGates:
        """Return the same gates with other features."""
        return replace(self, features=features)

    def collapsed(self) -> ReusedGates:
        """Merge the gates of each trajectory that have equal features into one weighted row."""
        table = torch.cat([self.trajectory[:, None].double(), self.features.double()], dim=1)
        rows, place = table.unique(dim=0, return_inverse=True)
        weight = torch.zeros(len(rows)).index_add(0, place, self.weight)
        features, trajectory = rows[:, 1:].float(), rows[:, 0].long()
        return replace(self, features=features, trajectory=trajectory, weight=weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredGates:
    """Reused gates in a file of float32 rows; a row holds the features and the weight of a gate.

    The file is read rather than memory-mapped, as mapped pages count as memory of the process.
    """

    path: Path
    """File with the rows."""
    width: int
    """Numbers in a row: the features and the weight."""
    start: Int[Tensor, " trajectories"]
    """First row of each trajectory; the rows of a trajectory are contiguous."""
    num_rows: Int[Tensor, " trajectories"]
    """Number of rows of each trajectory."""
    num_gates: Float[Tensor, " trajectories"]
    """Number of gates that the rows of each trajectory stand for."""
    squared_error: Float[Tensor, " trajectories"]
    """D^2 (:attr:`ReusedGates.squared_error`)."""
    noise: Int[Tensor, " trajectories"]
    """Index of the noise sample (:attr:`ReusedGates.noise`)."""

    @property
    def log_error(self) -> Float[Tensor, " trajectories"]:
        """log D^2, with D^2 at least 1e-12, so that a trajectory without error is finite."""
        return _log_error(self.squared_error)

    def subset(self, chosen: Bool[Tensor, " trajectories"]) -> StoredGates:
        """Return some of the trajectories; nothing is read."""
        return replace(
            self,
            start=self.start[chosen],
            num_rows=self.num_rows[chosen],
            num_gates=self.num_gates[chosen],
            squared_error=self.squared_error[chosen],
            noise=_renumbered(self.noise[chosen]),
        )

    def load(self) -> ReusedGates:
        """Read the rows into memory, trajectory by trajectory."""
        rows = torch.from_numpy(self._rows())
        owner = torch.arange(len(self.num_rows)).repeat_interleave(self.num_rows)
        return ReusedGates(
            features=rows[:, :-1].contiguous(),
            trajectory=owner,
            squared_error=self.squared_error,
            noise=self.noise,
            weight=rows[:, -1].contiguous(),
        )

    def _rows(self) -> np.ndarray:
        rows = np.empty((int(self.num_rows.sum()), self.width), dtype=np.float32)
        place = 0
        with self.path.open("rb") as stream:
            for start, count in self._runs():
                stream.seek(4 * self.width * start)
                found = np.fromfile(stream, np.float32, count * self.width)
                rows[place : place + count] = found.reshape(count, self.width)
                place += count
        return rows

    def _runs(self) -> list[tuple[int, int]]:
        """Return starts and lengths of the reads; adjacent rows are read at once."""
        runs: list[tuple[int, int]] = []
        for start, count in zip(self.start.tolist(), self.num_rows.tolist(), strict=True):
            if runs and count and sum(runs[-1]) == start:
                runs[-1] = (runs[-1][0], runs[-1][1] + count)
            elif count:
                runs.append((start, count))
        return runs


Gates = ReusedGates | StoredGates
"""Gates of a fit, in memory or on disk."""


def bounded(gates: Gates, rows: int, seed: int) -> Gates:
    """Return all gates, or those of randomly drawn noise samples with at most ``rows`` rows.

    At least one noise sample is returned, however many rows it has.
    """
    if int(gates.num_rows.sum()) <= rows:
        return gates
    count = int(gates.noise.max()) + 1
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    by_noise = torch.zeros(count, dtype=torch.long).index_add(0, gates.noise, gates.num_rows)
    is_within = torch.zeros(count, dtype=torch.bool)
    is_within[order] = by_noise[order].cumsum(0) <= rows
    is_within[order[0]] = True
    return gates.subset(is_within[gates.noise])


def _log_error(squared_error: Tensor) -> Tensor:
    return squared_error.clamp_min(1e-12).log()


def _renumbered(noise: Tensor) -> Tensor:
    return torch.unique(noise, return_inverse=True)[1]
