"""Reroutes the sites of a diffusers transformer through a controller, and puts them back.

Only the ``forward`` of the modules is replaced, on the instance: the module tree, the parameter
names and the attention processors stay as they are, so that adapters and checkpoints do too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dqar.controller import DQARController
from dqar.exchange import Fresh
from dqar.signals import attention_entropy


@dataclass(slots=True)
class Seat:
    """Where a running controller sits; empty between runs, and then the model is stock."""

    sites: tuple[str, ...]
    """Which sub-modules are rerouted."""
    controller: DQARController | None = None
    modules: list[tuple[nn.Module, Any]] = field(default_factory=list)
    """Rerouted modules with the forward that reroutes them."""


def attach(transformer: nn.Module, sites: tuple[str, ...]) -> Seat:
    """Reroute ``attn1`` and ``ff`` of every block.

    Raises:
        ValueError: if the model has no ``transformer_blocks``, or chunks its feed-forward.
    """
    blocks = getattr(transformer, "transformer_blocks", None)
    if blocks is None:
        raise ValueError(
            f"The model must have transformer_blocks. Got {type(transformer).__name__}. "
            "Pass a diffusers DiT transformer."
        )
    if "ff" in sites:
        for block in blocks:
            _refuse_chunks(block)
    seat = Seat(sites=sites)
    for layer, block in enumerate(blocks):
        if "attn" in sites:
            _reroute_attention(block.attn1, layer, seat)
        if "ff" in sites:
            _reroute_feed_forward(block.ff, layer, seat)
    return seat


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
        controller = seat.controller
        if controller is None:
            return inner(hidden_states, *args, **kwargs)
        _refuse_batched_extras(args, kwargs)

        def compute(rows: Tensor | None) -> Fresh:
            given = hidden_states if rows is None else hidden_states[rows]
            if "entropy" not in controller.needs:
                return Fresh(output=inner(given, *args, **kwargs), entropy=None)
            with QueryKeyCapture(attention) as capture:
                output = inner(given, *args, **kwargs)
            return Fresh(output=output, entropy=capture.entropy(controller.config.entropy_rows))

        return controller.through(layer, "attn", compute)

    _install(attention, forward, seat)


def _reroute_feed_forward(feed_forward: nn.Module, layer: int, seat: Seat) -> None:
    inner = feed_forward.forward

    def forward(hidden_states: Float[Tensor, "r n d"], *args: Any, **kwargs: Any) -> Tensor:
        controller = seat.controller
        if controller is None:
            return inner(hidden_states, *args, **kwargs)

        def compute(rows: Tensor | None) -> Fresh:
            given = hidden_states if rows is None else hidden_states[rows]
            return Fresh(output=inner(given, *args, **kwargs), entropy=None)

        return controller.through(layer, "ff", compute)

    _install(feed_forward, forward, seat)


class QueryKeyCapture:
    """Reads the queries and keys of one attention call, whatever processor computes it."""

    def __init__(self, attention: Any) -> None:
        self.attention = attention
        self.found: dict[str, Tensor] = {}

    def __enter__(self) -> QueryKeyCapture:
        attention = self.attention
        watched = {
            "query": attention.norm_q or attention.to_q,
            "key": attention.norm_k or attention.to_k,
        }
        self._hooks = [
            module.register_forward_hook(self._keep(name)) for name, module in watched.items()
        ]
        return self

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            del module, args
            self.found[name] = output

        return hook

    def __exit__(self, *exc: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def entropy(self, max_rows: int) -> Float[Tensor, " r"]:
        """Entropy of the captured call in nats, mean over heads and strided rows.

        Raises:
            ValueError: if the processor computed no separate queries and keys.
        """
        if len(self.found) < 2:
            raise ValueError(
                "Entropy must see queries and keys. Got an attention that fuses its projections. "
                "Call unfuse_qkv_projections(), or choose a gate without entropy."
            )
        query, key = (self._by_head(self.found[name]) for name in ("query", "key"))
        scale = float(self.attention.scale)
        return attention_entropy(query, key, scale=scale, max_rows=max_rows)

    def _by_head(self, projected: Tensor) -> Float[Tensor, "r h n e"]:
        if projected.ndim == 4:  # a per-head norm_q sees its heads already
            return projected
        return projected.unflatten(-1, (self.attention.heads, -1)).transpose(1, 2)


def _refuse_chunks(block: Any) -> None:
    if getattr(block, "_chunk_size", None) is not None:
        raise ValueError(
            "Feed-forward reuse must see whole sequences. Got a chunked feed-forward. "
            "Call set_chunk_feed_forward(None), or reuse only attn."
        )


def _refuse_batched_extras(args: tuple, kwargs: dict[str, Any]) -> None:
    extras = [*args, *kwargs.values()]
    if any(isinstance(extra, Tensor) for extra in extras):
        raise ValueError(
            "Self-attention must take hidden states alone. Got a mask or encoder states. "
            "Reuse another site of this model."
        )
