"""What the controller and a site hand each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from dqar.records import EntryKey, Reason

Compute = Callable[[Int[Tensor, " s"] | None], "Fresh"]
"""Computes a site for some rows of the batch, or for all of them (None)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """A site's newly computed output for the rows asked for."""

    output: Float[Tensor, "s n d"]
    entropy: Float[Tensor, " s"] | None
    """Attention entropy in nats, where the site has attention and it was asked for."""

    def take(self, rows: Int[Tensor, " s"]) -> Fresh:
        """Only some rows."""
        entropy = None if self.entropy is None else self.entropy[rows]
        return Fresh(output=self.output[rows], entropy=entropy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The answer to ``should_reuse``. True when every sample reuses."""

    mask: tuple[bool, ...]
    """Reuse, by sample."""
    reasons: tuple[Reason, ...]
    """Why, by sample."""
    entry: EntryKey
    """What to hand to ``reuse``."""

    def __bool__(self) -> bool:
        return all(self.mask)
