"""The residual that a block, or a stack of blocks, adds to its streams."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dqar.cache.site_tensors import Parts
from dqar.integration.engine.returned import Layout, folded, unfolded
from dqar.integration.engine.site_call import SiteCall

PARTS = {"hidden_states": "output", "encoder_hidden_states": "context"}
"""Names of the cached parts of common streams."""


def part_names(streams: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the cached parts of streams; the part of an only stream is ``output``."""
    return ("output",) if len(streams) == 1 else tuple(PARTS.get(one, one) for one in streams)


def streams_of(call: SiteCall, streams: tuple[str, ...]) -> Parts:
    """Return the streams that a block is called with, by part."""
    given = zip(part_names(streams), map(call.argument, streams), strict=True)
    return {part: value for part, value in given if isinstance(value, Tensor)}


class Residual:
    """The residuals of all streams for some rows, together with the exact outputs for them.

    Stream plus residual differs from the output by a rounding error, so a row that takes its own
    computed value gets the output itself.

    Args:
        entry: streams before the block, by part.
        fold: rows of the block for each row of the transformer's call.
    """

    def __init__(self, entry: Parts, fold: int) -> None:
        self.entry = {name: folded(value, fold) for name, value in entry.items()}
        self.fold = fold
        self.rows: Tensor | None = None
        self.returned: Parts | None = None

    def parts(self, returned: Parts, rows: Int[Tensor, " s"] | None) -> Parts:
        """Return the residuals of computed outputs; a part without a stream is kept as it is.

        Raises:
            ValueError: if an output has another shape than its stream.
        """
        returned = {name: folded(value, self.fold) for name, value in returned.items()}
        self.rows, self.returned = rows, returned
        return {name: self._difference(name, value) for name, value in returned.items()}

    def _difference(self, name: str, value: Tensor) -> Tensor:
        if name not in self.entry:
            return value
        given = self.entry[name] if self.rows is None else self.entry[name][self.rows]
        if given.shape != value.shape:
            raise ValueError(
                "A block must return its streams in the shapes that it was given. Got "
                f"{tuple(value.shape)} for {tuple(given.shape)} ({name}). Reuse another site."
            )
        return value - given

    def seen(self, parts: Parts, exposure: bool) -> Parts:
        """Return the outputs, given the computed or cached residual of each row."""
        return {
            name: unfolded(self._seen(name, part, exposure), self.fold)
            for name, part in parts.items()
        }

    def _seen(self, name: str, part: Tensor, exposure: bool) -> Tensor:
        if name not in self.entry:
            return part
        entry = self.entry[name]
        if self.returned is None:
            return entry + part
        returned = self.returned[name]
        if self.rows is not None:
            return (entry + part).index_copy(0, self.rows, returned)
        if not exposure:
            return returned
        own = (part == returned - entry).flatten(1).all(dim=1)
        return torch.where(own.view(-1, *(1,) * (part.ndim - 1)), returned, entry + part)


def rebuilt(layout: Layout | None, parts: Parts) -> Any:
    """Return parts in the form in which a block returned them earlier in the run."""
    assert layout is not None  # a run computes before it reuses
    return layout.rebuilt(parts)
