"""Sites of a stock model that show a mixture of what they compute and what is cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dqar.config import CachedParts
from pipeline.bound import skipped_modules


class Mixer:
    """Sites that put out what is cached as far as they do not compute, and cache what they put out.

    ``share`` is the computed share by row and gate; None computes everything.
    """

    def __init__(self) -> None:
        self.share: Float[Tensor, "r g"] | None = None
        self.cached: dict[tuple[int, int], Tensor] = {}

    def mixed(self, gate: int, part: int, fresh: Float[Tensor, "r n d"]) -> Float[Tensor, "r n d"]:
        """What a module of a gate puts out in place of what it computed."""
        shown = fresh
        if self.share is not None:
            share = self.share[:, gate, None, None].to(fresh.dtype)
            shown = share * fresh + (1 - share) * self.cached[gate, part]
        # What a step is blamed for is its own mixture, not that of the steps before.
        self.cached[gate, part] = shown.detach()
        return shown


@contextmanager
def mixing(
    transformer: Any, sites: tuple[str, ...], cached: CachedParts = "output"
) -> Iterator[Mixer]:
    """Let a mixer stand behind the sites of a model; gates are numbered by site, then layer."""
    mixer, blocks = Mixer(), transformer.transformer_blocks
    handles = [
        module.register_forward_hook(
            _hook(mixer, index * len(blocks) + layer, part, site), with_kwargs=True
        )
        for layer, block in enumerate(blocks)
        for index, site in enumerate(sites)
        for part, module in enumerate(skipped_modules(block, site, cached))
    ]
    try:
        yield mixer
    finally:
        for handle in handles:
            handle.remove()


def _hook(mixer: Mixer, gate: int, part: int, site: str) -> Callable[..., Tensor]:
    def show(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        if site != "block":
            return mixer.mixed(gate, part, output)
        # A block caches what it adds to its hidden states.
        hidden = args[0] if args else kwargs["hidden_states"]
        return hidden + mixer.mixed(gate, part, output - hidden)

    return show
