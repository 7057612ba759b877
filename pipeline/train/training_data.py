"""What a fit reads of a dataset: reused gates with the error they ended at, or single gates with
their own. Memory follows trajectories: gates pass by, and what a fit needs of them goes to disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqar.step_schedule import ReuseSetting
from pipeline.errors import InputError
from pipeline.traces.dataset import TraceUris
from pipeline.traces.multi_dataset import describe_uris, noises_of
from pipeline.traces.tables import read_trajectories
from pipeline.traces.trajectory_stream import GateBlock, whole_trajectories
from pipeline.train.gate_table import ReusedGates, StoredGates

MAX_GAP_QUANTILE = 0.995
"""Staleness seen more rarely than this in exploration is unknown to the policy."""
LOCAL_ROWS = 2**19
"""Gates that a fit of one-step errors draws from; of more, as many at random."""
HELD_OUT_LOCAL_ROWS = 2**14
"""Gates that such a fit is judged by while it descends."""


def store_reused_gates(
    uri: TraceUris, names: tuple[str, ...], sites: tuple[str, ...], folder: Path
) -> StoredGates:
    """The reused gates of a dataset, or of several together, written to a file in a folder,
    trajectory by trajectory.

    Gates that ``names`` cannot tell apart are one weighted row.
    """
    table = read_trajectories(uri)
    path, width = folder / "reused.f32", len(names) + 1
    # Start, rows and gates of each trajectory.
    spans = np.zeros((3, table.num_rows))
    with path.open("wb") as stream:
        for block in whole_trajectories(uri, ["site", *names], only_reused=True):
            wanted = block[np.isin(block.columns["site"], sites)]
            if not len(wanted.owner):
                continue
            rows, owner = _rows(wanted, names)
            trajectories, first, count = np.unique(owner, return_index=True, return_counts=True)
            spans[0, trajectories] = first + stream.tell() // (4 * width)
            spans[1, trajectories] = count
            np.add.at(spans[2], owner, rows[:, -1])
            rows.tofile(stream)
            stream.flush()
    error = torch.tensor(table["latent_rel_l2"].to_numpy())
    return StoredGates(
        path=path,
        width=width,
        start=torch.from_numpy(spans[0]).long(),
        num_rows=torch.from_numpy(spans[1]).long(),
        num_gates=torch.from_numpy(spans[2]).float(),
        squared_error=error.square(),
        noise=torch.from_numpy(noises_of(uri)),
    )


def _rows(block: GateBlock, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Features and weight of each row, and its trajectory."""
    features = np.stack([block.columns[name] for name in names], axis=1)
    weight, owner = np.ones(len(features), dtype=np.float32), block.owner
    if "depth" in names:
        return np.concatenate([features, weight[:, None]], axis=1), owner
    # Gates of a step follow each other: few rows are left to be sorted.
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
    """Where a row is not the one before."""
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return is_first


def load_reused_gates(
    uri: TraceUris, names: tuple[str, ...], sites: tuple[str, ...]
) -> ReusedGates:
    """:func:`store_reused_gates`, read back whole."""
    with tempfile.TemporaryDirectory() as folder:
        return store_reused_gates(uri, names, sites, Path(folder)).load()


def matching_trajectories(uri: TraceUris, setting: ReuseSetting) -> Bool[Tensor, " trajectories"]:
    """Trajectories of one order of forecasts and one gain of feedback."""
    table = read_trajectories(uri)
    order = table["forecast_order"].to_numpy() == setting[0]
    gain = table["feedback"].to_numpy() == np.float32(setting[1])
    return torch.tensor(order & gain)


def local_labels(
    uri: TraceUris,
    chosen: Bool[Tensor, " trajectories"],
    names: tuple[str, ...],
    sites: tuple[str, ...],
    limit: int,
    seed: int,
) -> tuple[Float[Tensor, "gates f"], Float[Tensor, " gates"]]:
    """Features and log squared local error of gates that had a value to compare with: of all, or
    of ``limit`` at random."""
    generator = np.random.default_rng(seed)
    rows, keys = np.empty((0, len(names) + 1), dtype=np.float32), np.empty(0)
    for block in whole_trajectories(uri, ["site", "local_rel_error", *names]):
        error = block.columns["local_rel_error"]
        wanted = np.isfinite(error) & np.isin(block.columns["site"], sites)
        wanted &= chosen.numpy()[block.owner]
        columns = [block.columns[name] for name in (*names, "local_rel_error")]
        rows = np.concatenate([rows, np.stack(columns, axis=1)[wanted]])
        keys = np.concatenate([keys, generator.random(int(wanted.sum()))])
        if len(rows) > limit:
            # Those with the smallest keys of all so far are a fair draw of them.
            kept = np.sort(np.argpartition(keys, limit)[:limit])
            rows, keys = rows[kept], keys[kept]
    labels = torch.from_numpy(rows)
    return labels[:, :-1].contiguous(), labels[:, -1].square().clamp_min(1e-12).log()


def max_gap_of(uri: TraceUris) -> int:
    """The largest staleness that a policy may be said to know."""
    counts: dict[float, int] = {}
    for block in whole_trajectories(uri, ["log_gap"], only_reused=True):
        for value, count in zip(
            *np.unique(block.columns["log_gap"], return_counts=True), strict=True
        ):
            counts[float(value)] = counts.get(float(value), 0) + int(count)
    if not counts:
        raise InputError(
            f"--traces must hold gates that reused. Got none in {describe_uris(uri)}. Collect more "
            "trajectories, or with --designs paced."
        )
    return round(float(np.exp(_quantile(counts, MAX_GAP_QUANTILE))))


def _quantile(counts: dict[float, int], q: float) -> float:
    """As numpy's, linear between neighbours, of values that come so many times."""
    values = sorted(counts)
    upto = np.cumsum([counts[value] for value in values])
    place = q * (upto[-1] - 1)
    ranks = np.floor(place), np.ceil(place)
    low, high = (values[int(np.searchsorted(upto, rank, side="right"))] for rank in ranks)
    return low + (high - low) * (place - ranks[0])
