"""Reuse of whole blocks: the residual that a block adds, norms and modulation skipped with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.controller import DQARController
from dqar.exchange import Fresh
from dqar.integration.attention import computed_with_entropy
from dqar.integration.reroute import Reroute, reroute
from dqar.integration.seat import Seat

BY_ROW = frozenset({"timestep", "class_labels"})
"""What a block is given one of a row, besides its hidden states."""


class _Call:
    """One call of a block: its residual for some rows, and what it really returned for them.

    The sum of hidden states and residual is a rounding away from what the block returned, so rows
    that see their own fresh value are given that itself.
    """

    def __init__(
        self, inner: Callable[..., Tensor], hidden: Tensor, kwargs: dict[str, Any]
    ) -> None:
        self.inner = inner
        self.hidden = hidden
        self.kwargs = kwargs
        self.rows: Tensor | None = None
        self.returned: Tensor | None = None

    def residual(self, rows: Tensor | None) -> Float[Tensor, "s n d"]:
        given, kwargs = self.hidden, self.kwargs
        if rows is not None:
            given = given[rows]
            kwargs = kwargs | {
                name: _of_rows(kwargs[name], rows) for name in BY_ROW & kwargs.keys()
            }
        self.rows, self.returned = rows, self.inner(given, **kwargs)
        return self.returned - given

    def seen(self, residual: Float[Tensor, "r n d"], exposure: bool) -> Float[Tensor, "r n d"]:
        """The block's output, given the residual that each row is to see."""
        if self.returned is None:
            return self.hidden + residual
        if self.rows is not None:
            return (self.hidden + residual).index_copy(0, self.rows, self.returned)
        if not exposure:
            return self.returned
        own = (residual == self.returned - self.hidden).flatten(1).all(dim=1)
        return torch.where(own[:, None, None], self.returned, self.hidden + residual)


def reroute_block(block: Any, layer: int, seat: Seat) -> Reroute:
    """Let this thread's controller decide whether a block is computed."""
    inner = block.forward

    def act(
        controller: DQARController,
        hidden_states: Float[Tensor, "r n d"],
        args: tuple,
        kwargs: dict[str, Any],
    ) -> Float[Tensor, "r n d"]:
        _refuse_other_inputs(args, kwargs)
        call = _Call(inner, hidden_states, kwargs)

        def compute(rows: Tensor | None) -> Fresh:
            return computed_with_entropy(block.attn1, controller, lambda: call.residual(rows))

        parts = controller.through(layer, "block", compute)
        return call.seen(parts["output"], controller.exposure)

    return reroute(block, seat, act)


def _of_rows(value: Tensor | None, rows: Int[Tensor, " s"]) -> Tensor | None:
    # A single timestep or label stands for all rows.
    return value if value is None or len(value) == 1 else value[rows]


def _refuse_other_inputs(args: tuple, kwargs: dict[str, Any]) -> None:
    others = [*args, *(value for name, value in kwargs.items() if name not in BY_ROW)]
    if any(map(_holds_tensor, others)):
        raise ValueError(
            "A block must take hidden states, timesteps and labels alone. Got a mask, encoder "
            "states, or inputs without their names. Reuse another site of this model."
        )


def _holds_tensor(value: object) -> bool:
    # Masks and embeddings also come in dictionaries, such as cross_attention_kwargs.
    if isinstance(value, dict):
        return any(map(_holds_tensor, value.values()))
    return isinstance(value, Tensor)
