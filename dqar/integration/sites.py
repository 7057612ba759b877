"""Reroutes the sites of a diffusers transformer through a controller, and puts them back.

Only the ``forward`` of the modules is replaced, on the instance: the module tree, the parameter
names and the attention processors stay as they are, so that adapters and checkpoints do too.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dqar.config import CachedParts
from dqar.exchange import Fresh
from dqar.integration.attention import (
    QueryKeyCapture,
    attend,
    projected_entropy,
    refuse_other_arithmetic,
)
from dqar.integration.blocks import rerouted_block
from dqar.integration.seat import Seat


def attach(transformer: nn.Module, sites: tuple[str, ...], cached: CachedParts) -> Seat:
    """Reroute ``attn1`` and ``ff`` of every block, or the blocks themselves.

    Raises:
        ValueError: if the model has no ``transformer_blocks``, chunks its feed-forward, or its
            attention is to cache keys and values and is not a plain one.
    """
    blocks = getattr(transformer, "transformer_blocks", None)
    if blocks is None:
        raise ValueError(
            f"The model must have transformer_blocks. Got {type(transformer).__name__}. "
            "Pass a diffusers DiT transformer."
        )
    seat = Seat(sites, cached)
    refuse_misfits(transformer, seat)
    reroute_attention = _reroute_attention if cached == "output" else _reroute_keys_and_values
    for layer, block in enumerate(blocks):
        if "attn" in sites:
            reroute_attention(block.attn1, layer, seat)
        if "ff" in sites:
            _reroute_feed_forward(block.ff, layer, seat)
        if "block" in sites:
            _install(block, rerouted_block(block, layer, seat), seat)
    return seat


def refuse_misfits(transformer: Any, seat: Seat) -> None:
    """Refuse what a model may also be set to after it was patched.

    Raises:
        ValueError: if it chunks a rerouted feed-forward, or if its attention is to cache keys and
            values and is not a plain one.
    """
    for block in transformer.transformer_blocks:
        if not {"ff", "block"}.isdisjoint(seat.sites):
            _refuse_chunks(block)
        if "attn" in seat.sites and seat.cached == "kv":
            refuse_other_arithmetic(block.attn1)


def detach(seat: Seat) -> None:
    """Put every forward back.

    Raises:
        ValueError: if something else was patched on top since.
    """
    for module, rerouted in seat.modules:
        if module.__dict__.get("forward") is not rerouted:
            raise ValueError(
                "Patches must come off in the reverse order. Got a module patched again since. "
                "Remove the later patch first."
            )
    for module, rerouted in seat.modules:
        _restore(module, rerouted)
    seat.modules.clear()


def _restore(module: nn.Module, rerouted: Any) -> None:
    earlier = rerouted.__wrapped__
    if getattr(earlier, "__self__", None) is module:
        del module.__dict__["forward"]
    else:
        module.forward = earlier


def _install(module: nn.Module, rerouted: Any, seat: Seat) -> None:
    rerouted.__wrapped__ = module.forward
    module.forward = rerouted
    seat.modules.append((module, rerouted))


def _reroute_attention(attention: nn.Module, layer: int, seat: Seat) -> None:
    inner = attention.forward

    def forward(hidden_states: Float[Tensor, "r n d"], *args: Any, **kwargs: Any) -> Tensor:
        controller = seat.acting
        if controller is None:
            return inner(hidden_states, *args, **kwargs)
        _refuse_batched_extras(args, kwargs)

        def compute(rows: Tensor | None) -> Fresh:
            given = hidden_states if rows is None else hidden_states[rows]
            if "entropy" not in controller.needs:
                return Fresh(parts={"output": inner(given, *args, **kwargs)})
            with QueryKeyCapture(attention) as capture:
                output = inner(given, *args, **kwargs)
            entropy = capture.entropy(controller.config.entropy_rows)
            return Fresh(parts={"output": output}, entropy=entropy)

        return controller.through(layer, "attn", compute)["output"]

    _install(attention, forward, seat)


def _reroute_keys_and_values(attention: Any, layer: int, seat: Seat) -> None:
    inner = attention.forward

    def forward(hidden_states: Float[Tensor, "r n d"], *args: Any, **kwargs: Any) -> Tensor:
        controller = seat.acting
        if controller is None:
            return inner(hidden_states, *args, **kwargs)
        _refuse_batched_extras(args, kwargs)
        query = attention.to_q(hidden_states)

        def compute(rows: Tensor | None) -> Fresh:
            given = hidden_states if rows is None else hidden_states[rows]
            parts = {"keys": attention.to_k(given), "values": attention.to_v(given)}
            if "entropy" not in controller.needs:
                return Fresh(parts=parts)
            asking = query if rows is None else query[rows]
            max_rows = controller.config.entropy_rows
            entropy = projected_entropy(attention, asking, parts["keys"], max_rows)
            return Fresh(parts=parts, entropy=entropy)

        parts = controller.through(layer, "attn", compute)
        return attend(attention, query, parts["keys"], parts["values"])

    _install(attention, forward, seat)


def _reroute_feed_forward(feed_forward: nn.Module, layer: int, seat: Seat) -> None:
    inner = feed_forward.forward

    def forward(hidden_states: Float[Tensor, "r n d"], *args: Any, **kwargs: Any) -> Tensor:
        controller = seat.acting
        if controller is None:
            return inner(hidden_states, *args, **kwargs)

        def compute(rows: Tensor | None) -> Fresh:
            given = hidden_states if rows is None else hidden_states[rows]
            return Fresh(parts={"output": inner(given, *args, **kwargs)})

        return controller.through(layer, "ff", compute)["output"]

    _install(feed_forward, forward, seat)


def _refuse_chunks(block: Any) -> None:
    if getattr(block, "_chunk_size", None) is not None:
        raise ValueError(
            "Feed-forward and block reuse must see whole batches. Got a chunked feed-forward. "
            "Call set_chunk_feed_forward(None), or reuse only attn."
        )


def _refuse_batched_extras(args: tuple, kwargs: dict[str, Any]) -> None:
    extras = [*args, *kwargs.values()]
    if any(isinstance(extra, Tensor) for extra in extras):
        raise ValueError(
            "Self-attention must take hidden states alone. Got a mask or encoder states. "
            "Reuse another site of this model."
        )
