"""Reuse of whole transformer blocks: the residual that a block adds to its hidden states is cached,
and its norms and modulation are skipped too."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.cache.site_tensors import Fresh
from dqar.control.controller import DQARController
from dqar.integration.attention_site import computed_with_entropy
from dqar.integration.forward_patch import SiteCall, SiteFn

BY_ROW = frozenset({"timestep", "class_labels"})
"""Arguments of a block, besides its hidden states, that hold one value for each row."""


class _Residual:
    """The residual of a block for some rows, together with the block's exact output for them.

    Hidden states plus residual differ from the block's output by a rounding error, so a row that
    takes its own computed value gets the block's output itself.
    """

    def __init__(self, call: SiteCall) -> None:
        self.call = call
        self.rows: Tensor | None = None
        self.returned: Tensor | None = None

    def compute(self, rows: Tensor | None) -> Float[Tensor, "s n d"]:
        given, kwargs = self.call.given(rows), self.call.kwargs
        if rows is not None:
            kwargs = kwargs | {
                name: _of_rows(kwargs[name], rows) for name in BY_ROW & kwargs.keys()
            }
        returned: Tensor = self.call.inner(given, **kwargs)
        self.rows, self.returned = rows, returned
        return returned - given

    def seen(self, residual: Float[Tensor, "r n d"], exposure: bool) -> Float[Tensor, "r n d"]:
        """Return the block's output, given the computed or cached residual of each row."""
        hidden = self.call.hidden
        if self.returned is None:
            return hidden + residual
        if self.rows is not None:
            return (hidden + residual).index_copy(0, self.rows, self.returned)
        if not exposure:
            return self.returned
        own = (residual == self.returned - hidden).flatten(1).all(dim=1)
        return torch.where(own[:, None, None], self.returned, hidden + residual)


def block_act(block: Any, layer: int) -> SiteFn:
    """Return the function that runs a block under a controller."""

    def act(controller: DQARController, call: SiteCall) -> Float[Tensor, "r n d"]:
        _refuse_other_inputs(call)
        residual = _Residual(call)

        def compute(rows: Tensor | None) -> Fresh:
            return computed_with_entropy(block.attn1, controller, lambda: residual.compute(rows))

        parts = controller.through(layer, "block", compute)
        return residual.seen(parts["output"], controller.exposure)

    return act


def _of_rows(value: Tensor | None, rows: Int[Tensor, " s"]) -> Tensor | None:
    # A tensor of length 1 holds the timestep or label of all rows.
    return value if value is None or len(value) == 1 else value[rows]


def _refuse_other_inputs(call: SiteCall) -> None:
    named = (value for name, value in call.kwargs.items() if name not in BY_ROW)
    others = [*call.args, *named]
    if any(map(_holds_tensor, others)):
        raise ValueError(
            "A block must take hidden states, timesteps and labels alone. Got a mask, encoder "
            "states, or unnamed arguments. Reuse another site of this model, such as attn."
        )


def _holds_tensor(value: object) -> bool:
    # Masks and embeddings also come in dictionaries, such as cross_attention_kwargs.
    if isinstance(value, dict):
        return any(map(_holds_tensor, value.values()))
    return isinstance(value, Tensor)
