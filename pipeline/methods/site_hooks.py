"""Hooks on the outputs that the sites of a stock (unpatched) model would cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dqar.config import CachedParts

Place = tuple[int, int, int]
"""Index of the site, layer, and index of the module among those that a reuse skips at the site."""
SiteFn = Callable[[Place, Float[Tensor, "r n d"]], Tensor | None]
"""Takes a place and a module's output; returns a replacement or None to keep the output."""


@contextmanager
def hook_sites(
    transformer: Any, sites: tuple[str, ...], cached: CachedParts, act: SiteFn
) -> Iterator[None]:
    """Call ``act`` with each output of the sites; a tensor that it returns replaces the output.

    Args:
        transformer: DiT of diffusers.
        sites: sites by name: ``attn``, ``ff`` or ``block``.
        cached: cached part of ``attn``: its output, or its keys and values.
        act: function to call.
    """
    handles = [
        module.register_forward_hook(_hook((index, layer, part), site, act), with_kwargs=True)
        for layer, block in enumerate(transformer.transformer_blocks)
        for index, site in enumerate(sites)
        for part, module in enumerate(skipped_modules(block, site, cached))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(place: Place, site: str, act: SiteFn) -> Callable[..., Tensor | None]:
    def hook(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        if site != "block":
            return act(place, output)
        # The cached value of a block is its residual: output less input.
        hidden = args[0] if args else kwargs["hidden_states"]
        shown = act(place, output - hidden)
        return None if shown is None else hidden + shown

    return hook


def skipped_modules(block: Any, site: str, cached: CachedParts) -> list[nn.Module]:
    """Return the modules of a block that a reuse at this site skips."""
    if site == "block":
        return [block]
    if site == "ff":
        return [block.ff]
    attention = block.attn1
    return [attention] if cached == "output" else [attention.to_k, attention.to_v]
