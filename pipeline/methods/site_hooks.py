"""Hooks on the outputs that the sites of a stock (unpatched) model would cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dqar.config import CachedParts

Place = tuple[int, int, int]
"""Index of the site, layer, and index of the span among those that a reuse skips at the site."""
Span = tuple[nn.Module, nn.Module]
"""First and last of the modules that are called one after the other and skipped together."""
RESIDUALS = ("block", "stack")
"""Sites of which the residual is cached: the output of the last module less the input of the
first."""
SiteFn = Callable[[Place, Float[Tensor, "r n d"]], Tensor | None]
"""Takes a place and a module's output; returns a replacement or None to keep the output."""


@contextmanager
def hook_sites(
    transformer: Any, sites: tuple[str, ...], cached: CachedParts, act: SiteFn
) -> Iterator[None]:
    """Call ``act`` with each value that the sites would cache; a tensor that it returns replaces
    the value.

    Args:
        transformer: DiT of diffusers.
        sites: sites by name: ``attn``, ``ff``, ``block`` or ``stack``.
        cached: cached part of ``attn``: its output, or its keys and values.
        act: function to call.
    """
    handles = [
        handle
        for index, site in enumerate(sites)
        for layer, spans in enumerate(skipped_spans(transformer, site, cached))
        for part, span in enumerate(spans)
        for handle in _hooked(span, (index, layer, part), site in RESIDUALS, act)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooked(span: Span, place: Place, is_residual: bool, act: SiteFn) -> list[Any]:
    entered: list[Tensor] = []

    def before(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])

    def after(_: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        hidden = entered.pop()
        if not is_residual:
            return act(place, output)
        shown = act(place, output - hidden)
        return None if shown is None else hidden + shown

    first, last = span
    entering = first.register_forward_pre_hook(before, with_kwargs=True)
    return [entering, last.register_forward_hook(after)]


def skipped_spans(transformer: Any, site: str, cached: CachedParts) -> list[list[Span]]:
    """Return the spans of modules that a reuse at a site skips, for each gate of the site."""
    blocks = transformer.transformer_blocks
    if site == "stack":
        return [[(blocks[0], blocks[-1])]]
    return [
        [(module, module) for module in _skipped_modules(block, site, cached)] for block in blocks
    ]


def _skipped_modules(block: Any, site: str, cached: CachedParts) -> list[nn.Module]:
    if site == "block":
        return [block]
    if site == "ff":
        return [block.ff]
    attention = block.attn1
    return [attention] if cached == "output" else [attention.to_k, attention.to_v]
