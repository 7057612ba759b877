"""Tensors and decisions exchanged between the controller and a site of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.records import DecisionReason, EntryKey
from dqar.signals import relative_error

Parts = dict[str, Tensor]
"""Cached tensors of one site by name: ``output``, or ``keys`` and ``values``; ``[r, n, d]``."""

Compute = Callable[[Int[Tensor, " s"] | None], "Fresh"]
"""A function that computes a site's parts for some rows of the batch, or for all rows (None)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """Newly computed parts of a site, for the requested rows."""

    parts: Parts
    entropy: Float[Tensor, " s"] | None = None
    """Attention entropy in nats; None if the site has no attention or no gate reads entropy."""

    def take(self, rows: Int[Tensor, " s"]) -> Fresh:
        """Return the parts and the entropy of some rows."""
        entropy = None if self.entropy is None else self.entropy[rows]
        parts = {name: part[rows] for name, part in self.parts.items()}
        return Fresh(parts=parts, entropy=entropy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The result of ``should_reuse``; true in a condition if every sample reuses."""

    mask: tuple[bool, ...]
    """True for each sample that reuses."""
    reasons: tuple[DecisionReason, ...]
    """Reason of the decision, for each sample."""
    entry: EntryKey
    """The cache entry to pass to ``reuse``."""

    def __bool__(self) -> bool:
        return all(self.mask)


def parts_error(parts: Parts, reference: Parts) -> Float[Tensor, " r"]:
    """Relative L2 distance of ``parts`` to ``reference`` by row, mean over the parts."""
    errors = [relative_error(part, reference[name]) for name, part in parts.items()]
    return torch.stack(errors).mean(dim=0)
