"""What a fit reads of a dataset: reused gates with the error they ended at, or single gates with
their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.attribution import ReusedGates
from pipeline.dataset import read_trajectories, stream_gates

MAX_GAP_QUANTILE = 0.995
"""Staleness seen more rarely than this in exploration is unknown to the policy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowed:
    """Trajectories that a fit may see."""

    uri: str
    trajectory_ids: frozenset[str]


def load_reused_gates(uri: str, names: tuple[str, ...], sites: tuple[str, ...]) -> ReusedGates:
    """The reused gates of a dataset, trajectory by trajectory."""
    table = read_trajectories(uri)
    ids = table["trajectory_id"].to_pylist()
    position = {trajectory_id: index for index, trajectory_id in enumerate(ids)}
    features, trajectory = [], []
    columns = ["trajectory_id", "site", "action", *names]
    for batch in stream_gates(uri, columns, only_reused=True):
        wanted = np.isin(batch["site"].to_pylist(), sites)
        block = np.stack([batch[name].to_numpy(zero_copy_only=False) for name in names], axis=1)
        features.append(torch.from_numpy(block[wanted]))
        owners = [position[trajectory_id] for trajectory_id in batch["trajectory_id"].to_pylist()]
        trajectory.append(torch.tensor(owners)[torch.from_numpy(wanted)])
    error = torch.tensor(table["latent_rel_l2"].to_numpy())
    noise = torch.tensor(table["noise_id"].to_numpy())
    gates = ReusedGates(
        features=torch.cat(features),
        trajectory=torch.cat(trajectory),
        squared_error=error.square(),
        noise=torch.unique(noise, return_inverse=True)[1],
        weight=torch.ones(sum(map(len, features))),
    )
    return gates if "depth" in names else gates.collapsed()


def shows(uri: str, order: int) -> Bool[Tensor, " trajectories"]:
    """Trajectories whose reuse showed forecasts of an order."""
    return torch.tensor(read_trajectories(uri)["forecast_order"].to_numpy() == order)


def allowed_of(uri: str, chosen: Bool[Tensor, " trajectories"]) -> Allowed:
    """Some trajectories of a dataset, in the order of its table."""
    ids = read_trajectories(uri)["trajectory_id"].to_numpy()
    return Allowed(uri=uri, trajectory_ids=frozenset(ids[chosen.numpy()]))


def local_labels(
    allowed: Allowed, names: tuple[str, ...], sites: tuple[str, ...]
) -> tuple[Float[Tensor, "gates f"], Float[Tensor, " gates"]]:
    """Features and log squared local error of every gate that had a value to compare with."""
    columns = ["trajectory_id", "site", "local_rel_error", *names]
    features, errors = [], []
    for batch in stream_gates(allowed.uri, columns):
        error = batch["local_rel_error"].to_numpy(zero_copy_only=False)
        wanted = np.isfinite(error) & np.isin(batch["site"].to_pylist(), sites)
        wanted &= np.isin(batch["trajectory_id"].to_pylist(), list(allowed.trajectory_ids))
        block = np.stack([batch[name].to_numpy() for name in names], axis=1)
        features.append(torch.from_numpy(block[wanted]))
        errors.append(torch.from_numpy(error[wanted]))
    return torch.cat(features), torch.cat(errors).square().clamp_min(1e-12).log()


def max_gap_of(uri: str) -> int:
    """The largest staleness that a policy may be said to know."""
    gaps = [
        batch["log_gap"].to_numpy()
        for batch in stream_gates(uri, ["log_gap", "action"], only_reused=True)
    ]
    return round(float(np.exp(np.quantile(np.concatenate(gaps), MAX_GAP_QUANTILE))))
