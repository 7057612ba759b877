"""Modules that stand for a whole stack of blocks in a variant of a transformer (site ``stack``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

from torch import nn

from dqar.integration.compiled.buffers import SiteBuffers, keep, shown


class Stack(nn.Module):
    """A stack of blocks as the single entry of a transformer's list of blocks.

    Args:
        blocks: the blocks, in the order of their calls.
        kept: buffers of the stack's residual.
    """

    def __init__(self, blocks: Sequence[nn.Module], kept: SiteBuffers) -> None:
        super().__init__()
        # A DiT reads norm1 of its first block after the last.
        self.__dict__["_modules"] = dict(blocks[0]._modules)
        # Written to __dict__, since nn.Module.__setattr__ would register modules.
        self.__dict__.update(blocks=tuple(blocks), kept=kept.value)
        self.__dict__.update(differences=kept.differences, factors=kept.factors)


# Without type checks, since dynamo cannot trace a run-time type checker.
class KeepingStack(Stack):
    """A stack that computes its blocks, and keeps the residual that they add."""

    @no_type_check
    def forward(self, hidden_states, *args, **kwargs):
        returned = hidden_states
        for block in self.blocks:
            returned = block(returned, *args, **kwargs)
        # The blocks' output itself: hidden states plus residual differ from it by a rounding.
        keep(self, (returned - hidden_states).detach())
        return returned


class ReusingStack(Stack):
    """A stack that adds its kept residual, or the residual's forecast, and computes no block."""

    @no_type_check
    def forward(self, hidden_states, *args, **kwargs):
        del args, kwargs
        return hidden_states + shown(self)
