"""Reuse of a whole stack of blocks: one residual for each stream, from the first block's entry to
the last block's exit.

Where all rows reuse, the first block returns the streams plus their residuals, and the later blocks
hand their streams on. Where some rows compute, each block computes them, and the last block's exit
minus the entry is the residual.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dqar.cache.site_tensors import Fresh, Parts
from dqar.control.controller import DQARController
from dqar.integration.engine.block_site import rows_of_block
from dqar.integration.engine.description import Stack
from dqar.integration.engine.entropy import Attention
from dqar.integration.engine.part_computation import computed_rows
from dqar.integration.engine.residual import Residual, part_names, rebuilt, streams_of
from dqar.integration.engine.returned import Layout, rows_within
from dqar.integration.engine.site_call import SiteCall


class _RowsAsked(Exception):
    """Ends a question for the rows that compute, before anything is computed."""

    def __init__(self, rows: Tensor | None) -> None:
        self.rows = rows


@dataclass(kw_only=True, slots=True)
class Passage:
    """The passage of the streams through a stack, within one call of the transformer."""

    controller: DQARController
    """Controller of the call."""
    residual: Residual
    """Streams at the entry of the stack, and their residuals."""
    reused: Parts | None
    """Streams at the exit where all rows reuse; None where some compute."""
    rows: Tensor | None
    """Rows that compute; None for all."""
    entropies: list[Tensor] = field(default_factory=list)
    """Attention entropy of each block, by computed row."""

    @property
    def entropy(self) -> Float[Tensor, " s"] | None:
        """Mean attention entropy of the blocks; None if it was not measured."""
        return torch.stack(self.entropies).mean(dim=0) if self.entropies else None


class StackSite:
    """The execution of a stack of blocks under a controller.

    Args:
        layer: number of the first block among all layers of the model.
        attentions: attention of each block, whose entropy is measured.
    """

    def __init__(self, stack: Stack, layer: int, attentions: list[Attention]) -> None:
        self.stack = stack
        self.layer = layer
        self.attentions = attentions
        self._layouts: dict[int, Layout] = {}
        self._of_thread = threading.local()

    def at(self, place: int) -> Any:
        """Return the function that runs the block at a place of the stack."""
        return partial(self._run, place)

    def _run(self, place: int, controller: DQARController, call: SiteCall) -> Any:
        if place == 0:
            self._of_thread.passage = self._entered(controller, call)
        passage: Passage | None = getattr(self._of_thread, "passage", None)
        if passage is None or passage.controller is not controller:
            raise ValueError(
                "The blocks of a reused stack must run in order, the first one included. Got block "
                f"{place} of {self.stack.path} first. Reuse the site block."
            )
        is_last = place == len(self.attentions) - 1
        if is_last:
            self._of_thread.passage = None
        if passage.reused is not None:
            is_end = is_last or place == 0
            return self._handed_on(place, call, passage.reused if is_end else {})
        return self._computed(place, call, passage, is_last)

    def _entered(self, controller: DQARController, call: SiteCall) -> Passage:
        residual = Residual(streams_of(call, self.stack.streams), call.fold)
        reused, rows = self._asked(controller)
        if reused is not None:
            reused = residual.seen(reused, exposure=False)
        return Passage(controller=controller, residual=residual, reused=reused, rows=rows)

    def _asked(self, controller: DQARController) -> tuple[Parts | None, Tensor | None]:
        """Return the residuals if all rows reuse, or else the rows that compute."""

        def ask(rows: Tensor | None) -> Fresh:
            raise _RowsAsked(rows)

        try:
            return controller.through(self.layer, "stack", ask), None
        except _RowsAsked as asked:
            return None, asked.rows
        except KeyError as missing:
            raise ValueError(
                "The blocks of a reused stack must all run, the last one included. Got a call that "
                f"left out the last of {self.stack.path}, so that it has no residual. Reuse the "
                "site block."
            ) from missing

    def _handed_on(self, place: int, call: SiteCall, reused: Parts) -> Any:
        return rebuilt(self._layouts.get(place), streams_of(call, self.stack.streams) | reused)

    def _computed(self, place: int, call: SiteCall, passage: Passage, is_last: bool) -> Any:
        found, entropy = self.attentions[place].measured(
            passage.controller,
            lambda: computed_rows(
                call, passage.rows, rows_of_block(self.stack), part_names(self.stack.streams)
            ),
            call.fold,
        )
        layout, returned = found.layout, found.parts
        self._layouts[place] = self._without_extras(layout, call)
        if entropy is not None:
            passage.entropies.append(entropy)
        if is_last:
            return layout.rebuilt(self._left(passage, returned))
        if passage.rows is None:
            return layout.rebuilt(returned)
        within = rows_within(passage.rows, call.fold)
        given = streams_of(call, self.stack.streams)
        return layout.rebuilt(
            {name: given[name].index_copy(0, within, part) for name, part in returned.items()}
        )

    def _left(self, passage: Passage, returned: Parts) -> Parts:
        """Pass the residual of the finished stack to the controller; return the streams at the
        exit."""

        def compute(rows: Tensor | None) -> Fresh:
            return Fresh(parts=passage.residual.parts(returned, rows), entropy=passage.entropy)

        parts = passage.controller.through(self.layer, "stack", compute)
        return passage.residual.seen(parts, passage.controller.exposure)

    def _without_extras(self, layout: Layout, call: SiteCall) -> Layout:
        extras = {*layout.names} - {*streams_of(call, self.stack.streams), None}
        if extras:
            raise ValueError(
                "The blocks of a reused stack must return their streams alone. Got "
                f"{len(extras)} further outputs from {self.stack.path}. Reuse the site block."
            )
        return layout
