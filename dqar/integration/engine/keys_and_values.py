"""Reuse of the keys and values of a plain self-attention, to which the current step's queries then
attend."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from dqar.cache.site_tensors import Fresh
from dqar.control.controller import DQARController
from dqar.integration.attention_site import attend, projected_entropy
from dqar.integration.engine.site_call import SiteCall


class KeysAndValues:
    """The execution of one attention under a controller that caches keys and values."""

    def __init__(self, attention: Any, layer: int) -> None:
        self.attention = attention
        self.layer = layer

    def __call__(self, controller: DQARController, call: SiteCall) -> Float[Tensor, "r n d"]:
        """Return the attention's output to computed or cached keys and values of each row."""
        _refuse_batched_extras(call)
        attention, hidden = self.attention, call.hidden
        query = attention.to_q(hidden)

        def compute(rows: Tensor | None) -> Fresh:
            given = hidden if rows is None else hidden[rows]
            parts = {"keys": attention.to_k(given), "values": attention.to_v(given)}
            if "entropy" not in controller.needs:
                return Fresh(parts=parts)
            asking = query if rows is None else query[rows]
            max_rows = controller.config.entropy_rows
            entropy = projected_entropy(attention, asking, parts["keys"], max_rows)
            return Fresh(parts=parts, entropy=entropy)

        parts = controller.through(self.layer, "attn", compute)
        return attend(attention, query, parts["keys"], parts["values"])


def _refuse_batched_extras(call: SiteCall) -> None:
    given = [*call.args, *call.kwargs.values()]
    if any(isinstance(one, Tensor) and one is not call.hidden for one in given):
        raise ValueError(
            "Self-attention must take hidden states alone. Got a mask or encoder states. "
            "Reuse another site of this model, such as ff."
        )
