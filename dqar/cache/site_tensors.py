"""What the controller and a site hand each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.records import DecisionReason, EntryKey
from dqar.signals import relative_error

Parts = dict[str, Tensor]
"""What is cached of one site, by name: ``output``, or ``keys`` and ``values``; ``[r, n, d]``."""

Compute = Callable[[Int[Tensor, " s"] | None], "Fresh"]
"""Computes a site's parts for some rows of the batch, or for all of them (None)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """A site's newly computed parts for the rows asked for."""

    parts: Parts
    entropy: Float[Tensor, " s"] | None = None
    """Attention entropy in nats, where the site has attention and it was asked for."""

    def take(self, rows: Int[Tensor, " s"]) -> Fresh:
        """Only some rows."""
        entropy = None if self.entropy is None else self.entropy[rows]
        parts = {name: part[rows] for name, part in self.parts.items()}
        return Fresh(parts=parts, entropy=entropy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The answer to ``should_reuse``. True when every sample reuses."""

    mask: tuple[bool, ...]
    """Reuse, by sample."""
    reasons: tuple[DecisionReason, ...]
    """Why, by sample."""
    entry: EntryKey
    """What to hand to ``reuse``."""

    def __bool__(self) -> bool:
        return all(self.mask)


def parts_error(parts: Parts, reference: Parts) -> Float[Tensor, " r"]:
    """Relative L2 distance by row, mean over the parts."""
    errors = [relative_error(part, reference[name]) for name, part in parts.items()]
    return torch.stack(errors).mean(dim=0)
