"""Several collections of one model as one: a first round, and rounds that explored around policies.

Collections may be fitted together if their plans share the fields :data:`ALIKE`.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeAlias

from pipeline.errors import InputError
from pipeline.storage.object_store import Root
from pipeline.traces.dataset import TraceDataset, Traces, open_dataset

ALIKE = ("model_hash", "sites", "steps", "sampler", "guidance_scale", "cache_bits", "branch_mode")
"""Fields of their plans that collections must share: a reuse's damage under one setting says
nothing of its damage under another."""
TraceUris: TypeAlias = Root | tuple[Root, ...]
"""Where one collection lies, or several that are read one after the other."""


class MultiTraceDataset(Traces):
    """Collections that may be fitted together."""

    def __init__(self, parts: tuple[TraceDataset, ...]) -> None:
        self.plan = {name: parts[0].plan[name] for name in ALIKE}
        self.manifest = parts[0].manifest
        self._parts = parts

    @property
    def parts(self) -> tuple[TraceDataset, ...]:
        """The datasets, in the order in which they are read."""
        return self._parts

    @property
    def digest(self) -> str:
        """Digest of the parts' digests, in their order."""
        digests = "\n".join(part.digest for part in self.parts)
        return hashlib.sha256(digests.encode()).hexdigest()[:16]


def open_traces(uris: TraceUris) -> Traces:
    """Open the collections, and check that they are of one model under one setting.

    Raises:
        InputError: naming what differs, a collection that is named twice, or what is wrong with
            one.
    """
    roots = uris if isinstance(uris, tuple) else (uris,)
    first, *others = parts = [open_dataset(root) for root in roots]
    for other in others:
        _refuse_apart(first, other)
    if not others:
        return first
    together = MultiTraceDataset(tuple(parts))
    # The first digits name a collection's trajectories.
    if len({part.plan["plan_hash"][:8] for part in parts}) < len(parts):
        raise InputError(
            f"--traces must name each collection once. Got {together}, of which two "
            "have the same plan. Leave one of the two out."
        )
    return together


def _refuse_apart(first: TraceDataset, other: TraceDataset) -> None:
    differing = [
        f"{name} {other.plan[name]!r:.40} instead of {first.plan[name]!r:.40}"
        for name in ALIKE
        if _comparable(other.plan[name]) != _comparable(first.plan[name])
    ]
    if differing:
        raise InputError(
            f"--traces must be of one model, and collected with the same settings. Got "
            f"{other.storage} with {', '.join(differing)} as in {first.storage}. Train on each "
            "collection separately."
        )


def _comparable(value: Any) -> Any:
    # Sites in whatever order.
    return sorted(value) if isinstance(value, list) else value
