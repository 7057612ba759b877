"""Collections of one model as one: a first round, and those that explored around its policies.

:mod:`pipeline.traces.tables` reads several datasets one after the other; here is what they must
share for that to mean something, and what they are together.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pipeline.errors import InputError
from pipeline.models.noise import round_seed
from pipeline.traces.dataset import TraceDataset, TraceUris, each_root, open_each
from pipeline.traces.tables import read_trajectories

ALIKE = ("model_hash", "sites", "steps", "sampler", "guidance_scale", "cache_bits", "branch_mode")
"""Fields of their plans that collections must share, or a damage of one is none of the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiTraceDataset:
    """Collections that may be fitted together."""

    parts: tuple[TraceDataset, ...]
    """In the order in which they are read."""

    @property
    def plan(self) -> dict[str, Any]:
        """What the collections share of their plans, and the orders and gains that any of them
        explored."""
        orders = {order for part in self.parts for order in _orders(part)}
        gains = {gain for part in self.parts for gain in part.plan.get("feedbacks", [0.0])}
        shared = {name: self.parts[0].plan[name] for name in ALIKE}
        explored = {"forecast_orders": tuple(sorted(orders)), "feedbacks": tuple(sorted(gains))}
        return shared | explored

    @property
    def manifest(self) -> dict[str, Any]:
        """The first one's, for what it says of the model."""
        return self.parts[0].manifest

    @property
    def digest(self) -> str:
        """Of all that was collected, in its order; of one collection its own."""
        digests = [part.digest for part in self.parts]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def _orders(part: TraceDataset) -> list[int]:
    # Plans of the first release have none.
    return part.plan.get("forecast_orders", [0])


def open_multi(uri: TraceUris) -> MultiTraceDataset:
    """Find the collections, and check that they are of one model under one setting.

    Raises:
        InputError: naming what differs, a collection that is named twice, or what is wrong with
        one.
    """
    first, *others = parts = open_each(uri)
    for other in others:
        _refuse_apart(first, other)
    # The first digits name a collection's trajectories.
    if len({part.plan["plan_hash"][:8] for part in parts}) < len(parts):
        raise InputError(
            f"--traces must name each collection once. Got {describe_uris(uri)}, of which two "
            "have the same plan. Leave one out."
        )
    return MultiTraceDataset(parts=tuple(parts))


def _refuse_apart(first: TraceDataset, other: TraceDataset) -> None:
    differing = [
        f"{name} {other.plan[name]!r:.40} not {first.plan[name]!r:.40}"
        for name in ALIKE
        if _comparable(other.plan[name]) != _comparable(first.plan[name])
    ]
    if differing:
        raise InputError(
            f"--traces must be of one model, and collected alike. Got {other.storage} with "
            f"{', '.join(differing)}, which {first.storage} has. Train on each alone."
        )


def _comparable(value: Any) -> Any:
    # Sites in whatever order.
    return sorted(value) if isinstance(value, list) else value


def describe_uris(uri: TraceUris) -> str:
    """Their places, as a message names them."""
    return ", ".join(map(str, each_root(uri)))


def noises_of(uri: TraceUris) -> Int[ndarray, " trajectories"]:
    """Index of the noise that each trajectory starts from, in the order of
    :func:`pipeline.traces.tables.read_trajectories`.

    Collections of one seed share their noises, as far as they explore around no policy or around
    the same one; all others have their own.
    """
    seeds: list[int] = []
    keys = []
    for part in open_each(uri):
        seed = round_seed(part.plan["seed"], part.plan.get("policy_digest", ""))
        seeds += [] if seed in seeds else [seed]
        ids = read_trajectories(part.storage)["noise_id"].to_numpy()
        keys.append(np.stack([np.full_like(ids, seeds.index(seed)), ids]))
    return np.unique(np.concatenate(keys, axis=1), axis=1, return_inverse=True)[1].reshape(-1)
