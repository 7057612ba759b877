"""Bounded random sample of gates with their one-step (local) errors, drawn in one pass.

Reservoir sampling (Vitter, *Random sampling with a reservoir*, 1985) in its variant with random
keys (Efraimidis and Spirakis, *Weighted random sampling with a reservoir*, 2006, with equal
weights): every gate draws a uniform key, and the gates with the smallest keys are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.traces.trajectory_stream import GateBlock


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalGates:
    """Single gates, each with the error that a reuse makes or would make at its own step."""

    features: Float[Tensor, "gates f"]
    """Unscaled features of each gate."""
    log_error: Float[Tensor, " gates"]
    """Log squared relative L2 distance between the cached and the computed output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredLocalGates:
    """Sample of gates on disk: a ``.npy`` array whose rows hold features and local error."""

    path: Path
    """File of the array."""

    def load(self) -> LocalGates:
        """Read the sample into memory."""
        labels = torch.from_numpy(np.load(self.path))
        return LocalGates(
            features=labels[:, :-1].contiguous(),
            log_error=labels[:, -1].square().clamp_min(1e-12).log(),
        )


class LocalErrorSampler:
    """Reservoir of at most ``limit`` of the gates that had a cached value to compare with.

    Args:
        chosen: mask of the trajectories to draw from.
        names: features of a gate.
        sites: sites to draw from.
        limit: most gates in the sample.
        seed: random seed of the keys. With equal seed and trajectories the same gates are drawn.
    """

    def __init__(
        self,
        chosen: Bool[Tensor, " trajectories"],
        names: tuple[str, ...],
        sites: tuple[str, ...],
        *,
        limit: int,
        seed: int,
    ) -> None:
        self.columns = tuple(dict.fromkeys(("site", "local_rel_error", *names)))
        self._values = (*names, "local_rel_error")
        self._chosen, self._sites, self._limit = chosen.numpy(), sites, limit
        self._generator = np.random.default_rng(seed)
        self._rows = np.empty((0, len(self._values)), dtype=np.float32)
        self._keys, self._largest = np.empty(0), np.inf

    def add(self, block: GateBlock) -> None:
        """Draw a key for each gate of a block and keep the gates with the smallest keys so far."""
        wanted = np.isfinite(block.columns["local_rel_error"])
        wanted &= np.isin(block.columns["site"], self._sites) & self._chosen[block.owner]
        keys = self._generator.random(int(wanted.sum()))
        candidates = np.flatnonzero(wanted)[keys < self._largest]
        rows = np.stack([block.columns[name][candidates] for name in self._values], axis=1)
        self._rows = np.concatenate([self._rows, rows])
        self._keys = np.concatenate([self._keys, keys[keys < self._largest]])
        if len(self._rows) > self._limit:
            self._keep_smallest()

    def _keep_smallest(self) -> None:
        kept = np.sort(np.argpartition(self._keys, self._limit)[: self._limit])
        self._rows, self._keys = self._rows[kept], self._keys[kept]
        self._largest = self._keys.max()

    def store(self, path: Path) -> StoredLocalGates:
        """Write the sample to a ``.npy`` file, in the order of the gate table."""
        np.save(path, self._rows)
        return StoredLocalGates(path=path)
