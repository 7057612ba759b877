"""The description of a model family: its stacks of blocks, their streams and their sites.

A family is data. The engine reads it to patch every transformer of the family in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ByRow = tuple[str, ...] | None
"""Names of the arguments of a module, besides its streams, that hold one value for each row; all
others are the same for all rows. None if that is unknown: the module then computes all rows where
some are wanted."""

Arithmetic = Literal["plain", "softmax"] | None
"""The arithmetic of an attention. ``plain`` projects its hidden states by ``to_q`` and ``to_k``,
with norms but without rotation, so that keys and values may be cached. ``softmax`` calls
``scaled_dot_product_attention`` with any queries and keys (rotated, joined). None for another
kernel, and for a module that does not attend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A module of each block whose output may be reused."""

    module: str
    """Name of the module in the block, such as ``attn1``; blocks without it lack the site."""
    returns: tuple[str, ...] = ("output",)
    """Names of the tensors that the module returns, in the order of its returned tuple. A module
    that returns a tensor instead of a tuple returns the first."""
    by_row: ByRow = None
    """Arguments of the module that hold one value for each row."""
    attention: Arithmetic = None
    """Arithmetic of an attention, by which its entropy is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """A list of blocks that hand their streams of hidden states on to each other."""

    path: str
    """Name of the list in the transformer, such as ``transformer_blocks``."""
    streams: tuple[str, ...] = ("hidden_states",)
    """Parameters of a block's ``forward`` that it returns changed, in the order in which it returns
    them."""
    sites: Mapping[str, Site] = field(default_factory=dict)
    """Sites within each block, by name."""
    block_by_row: ByRow = None
    """Arguments of a block, besides its streams, that hold one value for each row."""
    not_at_end: tuple[str, ...] = ()
    """Streams for which the last block returns None."""
    is_interleaved: bool = False
    """True if blocks of another stack run between these, or if the model reads outputs of blocks
    before the last, so that the stack as a whole has no residual (site ``stack``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """All transformers that are patched alike."""

    stacks: tuple[Stack, ...]
    """Stacks in the order in which the transformer runs them; layers are numbered through all."""
