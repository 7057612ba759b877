"""Reuse of whole blocks: the residuals that a block adds to its streams are cached, and its norms
and modulation are skipped too."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dqar.cache.site_tensors import Fresh
from dqar.control.controller import DQARController
from dqar.integration.engine.description import Stack
from dqar.integration.engine.entropy import Attention
from dqar.integration.engine.part_computation import computed_rows
from dqar.integration.engine.residual import Residual, part_names, rebuilt, streams_of
from dqar.integration.engine.returned import Layout
from dqar.integration.engine.site_call import SiteCall


class BlockSite:
    """The execution of one block under a controller."""

    def __init__(self, stack: Stack, layer: int, attention: Attention) -> None:
        self.stack = stack
        self.layer = layer
        self.attention = attention
        self._layout: Layout | None = None

    def __call__(self, controller: DQARController, call: SiteCall) -> Any:
        """Return what the block returns, each row computed or reused."""
        residual = Residual(streams_of(call, self.stack.streams), call.fold)

        def compute(rows: Tensor | None) -> Fresh:
            found, entropy = self.attention.measured(
                controller,
                lambda: computed_rows(
                    call, rows, rows_of_block(self.stack), part_names(self.stack.streams)
                ),
                call.fold,
            )
            self._layout = found.layout
            return Fresh(parts=residual.parts(found.parts, rows), entropy=entropy)

        parts = controller.through(self.layer, "block", compute)
        return rebuilt(self._layout, residual.seen(parts, controller.exposure))


def rows_of_block(stack: Stack) -> tuple[str, ...] | None:
    """Arguments of a block that hold one value for each row, its streams included."""
    return None if stack.block_by_row is None else stack.streams + stack.block_by_row
