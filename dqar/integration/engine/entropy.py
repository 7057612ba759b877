"""Attention entropy of a site, where the family says how its attention works.

A gate that reads entropy is refused where it cannot be measured. A sink alone (a trace, a record)
then sees 0, as it does for feed-forwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from dqar.control.controller import DQARController
from dqar.integration.attention_site import QueryKeyCapture
from dqar.integration.engine.description import Arithmetic
from dqar.integration.engine.part_computation import Computed
from dqar.signals import attention_entropy


@dataclass(frozen=True, kw_only=True, slots=True)
class Attention:
    """An attention module, and how its entropy is measured."""

    module: nn.Module
    """The attention, or another module if ``arithmetic`` is None."""
    arithmetic: Arithmetic
    """The family's word on it; None if nobody knows."""
    is_site: bool
    """True if the attention is the site, False if a block around it is."""

    def measured(
        self, controller: DQARController, compute: Callable[[], Computed], fold: int
    ) -> tuple[Computed, Float[Tensor, " s"] | None]:
        """Return the result of ``compute``, and the entropy of the attention call that it makes;
        the entropy is None if nothing reads it or the arithmetic is unknown.

        Args:
            fold: rows of the module for each row of the transformer's call.

        Raises:
            ValueError: if a gate reads an entropy that cannot be measured.
        """
        if "entropy" not in controller.needs:
            return compute(), None
        refuse_unmeasured(self, controller)
        if self.arithmetic is None:
            return compute(), None
        if self.arithmetic == "plain":
            capture = QueryKeyCapture(self.module)
        else:
            capture = KernelCapture(self.module, is_called=self.is_site)
        with capture:
            result = compute()
        by_call = capture.entropy(controller.config.entropy_rows)
        # An attention may call its kernel for each row (Mochi), or for further keys (Wan's images).
        by_row = by_call.view(-1, result.num_rows).mean(dim=0)
        if result.kept is not None:
            by_row = by_row[result.kept]
        return result, by_row.unflatten(0, (-1, fold)).mean(dim=1)


def refuse_unmeasured(attention: Attention, controller: DQARController) -> None:
    """Refuse a gate that reads the entropy of an attention with unknown arithmetic.

    Raises:
        ValueError: naming the attention.
    """
    if attention.arithmetic is None and "entropy" in controller.gate.needs:
        raise ValueError(
            "A gate that reads entropy must come with attention whose entropy can be measured. "
            f"Got {type(attention.module).__name__}, whose family does not say how. Choose a gate "
            "without entropy, such as Interval or a static plan."
        )


class KernelCapture(TorchFunctionMode):
    """A context in which the queries, keys and mask of one attention are captured where it calls
    ``scaled_dot_product_attention``: after norms, rotation and the joining of streams.

    Args:
        is_called: True if the attention itself is computed within the context, without its
            ``__call__``; False if a block around it is.
    """

    def __init__(self, attention: nn.Module, *, is_called: bool) -> None:
        super().__init__()
        self.attention = attention
        self._calls: list[dict[str, Any]] = []
        self._is_inside = self._is_called = is_called
        self._thread = threading.get_ident()

    def __enter__(self) -> KernelCapture:
        self._hooks: list[RemovableHandle] = []
        if not self._is_called:
            self._hooks = [
                self.attention.register_forward_pre_hook(partial(self._move, True)),
                self.attention.register_forward_hook(partial(self._move, False)),
            ]
        super().__enter__()
        return self

    def _move(self, is_inside: bool, *_: object) -> None:
        # Another thread may run the same module at the same time.
        if threading.get_ident() == self._thread:
            self._is_inside = is_inside

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and self._is_inside:
            self._calls.append(
                dict(zip(("query", "key", "value", "attn_mask"), args, strict=False))
            )
            self._calls[-1] |= kwargs
        return func(*args, **kwargs)

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        for hook in self._hooks:
            hook.remove()

    def entropy(self, max_rows: int) -> Float[Tensor, " r"]:
        """Entropy of the captured calls in nats, one call after the other, mean over heads and over
        ``max_rows`` query rows spread over the sequence.

        Raises:
            ValueError: if the attention called another kernel.
        """
        if not self._calls:
            raise ValueError(
                "Entropy must see queries and keys. Got a "
                f"{type(self.attention).__name__} that calls another kernel than "
                "scaled_dot_product_attention. Set the attention backend native, or choose a gate "
                "without entropy."
            )
        return torch.cat([_entropy(call, max_rows) for call in self._calls])


def _entropy(call: dict[str, Any], max_rows: int) -> Float[Tensor, " r"]:
    query, key = call["query"].detach(), call["key"].detach()
    if key.shape[1] < query.shape[1]:  # grouped queries
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scale, mask = call.get("scale"), call.get("attn_mask")
    return attention_entropy(query, key, scale=scale, mask=mask, max_rows=max_rows)
