"""Diffusers attention: capture queries and keys for entropy, attend to given keys and values."""

from __future__ import annotations

import threading
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dqar.signals import attention_entropy

PLAIN_PROCESSOR = "AttnProcessor2_0"
"""The diffusers attention processor whose results :func:`attend` reproduces to the bit."""


class QueryKeyCapture:
    """A context in which the queries and keys of one attention call are captured by hooks, for any
    attention processor."""

    def __init__(self, attention: Any) -> None:
        self.attention = attention
        self.found: dict[str, Tensor] = {}

    def __enter__(self) -> QueryKeyCapture:
        attention = self.attention
        watched = {
            "query": attention.norm_q or attention.to_q,
            "key": attention.norm_k or attention.to_k,
        }
        self._thread = threading.get_ident()
        self._hooks = [
            module.register_forward_hook(self._keep(name)) for name, module in watched.items()
        ]
        return self

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            del module, args
            # Another thread may run the same module at the same time.
            if threading.get_ident() == self._thread:
                self.found[name] = output

        return hook

    def __exit__(self, *exc: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def entropy(self, max_rows: int) -> Float[Tensor, " r"]:
        """Entropy of the captured call in nats, mean over heads and over ``max_rows`` query rows
        spread over the sequence (:func:`dqar.signals.spread_rows`).

        Raises:
            ValueError: if the processor computed no separate queries and keys.
        """
        if len(self.found) < 2:
            raise ValueError(
                "Entropy must see queries and keys. Got an attention that fuses its projections. "
                "Call transformer.unfuse_qkv_projections(), or choose a gate without entropy."
            )
        query, key = (by_head(self.attention, self.found[name]) for name in ("query", "key"))
        scale = float(self.attention.scale)
        return attention_entropy(query, key, scale=scale, max_rows=max_rows)


def by_head(attention: Any, projected: Tensor) -> Float[Tensor, "r h n e"]:
    """Split the width into attention heads."""
    if projected.ndim == 4:  # the output of a norm_q or norm_k that acts on each head
        return projected
    return projected.unflatten(-1, (attention.heads, -1)).transpose(1, 2)


def projected_entropy(
    attention: Any, query: Float[Tensor, "r n d"], key: Float[Tensor, "r n d"], max_rows: int
) -> Float[Tensor, " r"]:
    """Entropy in nats of attention between projections before their query and key norms."""
    query, key = _normed(attention, query, key)
    return attention_entropy(query, key, scale=float(attention.scale), max_rows=max_rows)


def attend(
    attention: Any,
    query: Float[Tensor, "r n d"],
    key: Float[Tensor, "r n d"],
    value: Float[Tensor, "r n d"],
) -> Float[Tensor, "r n d"]:
    """Compute self-attention from its projections, as :data:`PLAIN_PROCESSOR` does."""
    query, key = _normed(attention, query, key)
    mixed = scaled_dot_product_attention(query, key, by_head(attention, value))
    hidden = mixed.transpose(1, 2).flatten(2).to(query.dtype)
    hidden = attention.to_out[1](attention.to_out[0](hidden))
    return hidden / attention.rescale_output_factor


def refuse_other_arithmetic(attention: Any, known: str | None) -> None:
    """Refuse K/V reuse of an attention that :func:`attend` does not reproduce.

    Args:
        known: how the attention makes queries and keys, as its family says.

    Raises:
        ValueError: for another arithmetic or processor, fused projections, a group or spatial norm,
            or a residual connection inside the attention.
    """
    processor = type(getattr(attention, "processor", None)).__name__
    extras = ("group_norm", "spatial_norm", "residual_connection", "fused_projections")
    has_extras = any(getattr(attention, name, False) for name in extras)
    if known != "plain" or processor != PLAIN_PROCESSOR or has_extras:
        raise ValueError(
            f"K/V reuse must know the attention's arithmetic. Got {processor}, fused or with "
            f"norms or a residual of its own. Set {PLAIN_PROCESSOR}, or pass cached='output'."
        )


def _normed(attention: Any, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    query, key = by_head(attention, query), by_head(attention, key)
    if attention.norm_q is not None:
        query = attention.norm_q(query)
    if attention.norm_k is not None:
        key = attention.norm_k(key)
    return query, key
