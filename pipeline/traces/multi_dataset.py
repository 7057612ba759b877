"""Several collections of one model read as one dataset.

Typically these are a first collection and further ones that explored around trained policies.
Collections can be fitted together if their plans share the fields :data:`ALIKE`.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeAlias

from pipeline.errors import InputError
from pipeline.models.identity import describe_change
from pipeline.storage.object_store import Root
from pipeline.traces.dataset import TraceDataset, Traces, open_dataset

ALIKE = ("model_hash", "sites", "steps", "sampler", "guidance_scale", "cache_bits", "branch_mode")
"""Fields of a plan that collections must share to be fitted together: the damage of a reuse under
one setting says nothing of its damage under another setting."""
TraceUris: TypeAlias = Root | tuple[Root, ...]
"""Place of one collection, or places of several collections to be read in this order."""


class MultiTraceDataset(Traces):
    """Collections that can be fitted together, read in order."""

    def __init__(self, parts: tuple[TraceDataset, ...]) -> None:
        self.plan = {name: parts[0].plan[name] for name in ALIKE}
        self.manifest = parts[0].manifest
        self._parts = parts

    @property
    def parts(self) -> tuple[TraceDataset, ...]:
        """The collections, in the order in which they are read."""
        return self._parts

    @property
    def digest(self) -> str:
        """Digest of the digests of the parts, in order."""
        digests = "\n".join(part.digest for part in self.parts)
        return hashlib.sha256(digests.encode()).hexdigest()[:16]


def open_traces(uris: TraceUris) -> Traces:
    """Open collections, and check that they are of one model under one setting.

    Raises:
        InputError: if a collection cannot be opened or is named twice, or naming the fields of
            the plans that differ.
    """
    roots = uris if isinstance(uris, tuple) else (uris,)
    first, *others = parts = [open_dataset(root) for root in roots]
    for other in others:
        _refuse_apart(first, other)
    if not others:
        return first
    together = MultiTraceDataset(tuple(parts))
    # A trajectory id starts with the first 8 digits of the plan hash, and must be unique.
    if len({part.plan["plan_hash"][:8] for part in parts}) < len(parts):
        raise InputError(
            f"--traces must name each collection once. Got {together}, of which two "
            "have the same plan. Leave one of the two out."
        )
    return together


def _refuse_apart(first: TraceDataset, other: TraceDataset) -> None:
    differing = [
        describe_change(name, other.plan[name], first.plan[name])
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
    # The order of the sites does not matter.
    return sorted(value) if isinstance(value, list) else value
