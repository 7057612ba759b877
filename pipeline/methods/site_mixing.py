"""Sites of a stock model patched to show a mixture of their computed and cached outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dqar.config import CachedParts
from pipeline.methods.site_hooks import Place, hook_sites


class Mixer:
    """Mixes the computed and the cached outputs of all sites, and caches each mixture.

    ``share`` is the computed share by row of the batch and gate; None shows the computed outputs.
    """

    def __init__(self) -> None:
        self.share: Float[Tensor, "r g"] | None = None
        self.cached: dict[tuple[int, int], Tensor] = {}

    def mixed(self, gate: int, part: int, fresh: Float[Tensor, "r n d"]) -> Float[Tensor, "r n d"]:
        """Return the mixture that replaces a module's computed output, and cache it."""
        shown = fresh
        if self.share is not None:
            share = self.share[:, gate, None, None].to(fresh.dtype)
            shown = share * fresh + (1 - share) * self.cached[gate, part]
        # Detached: the loss of a step reaches only the shares of that step, as in the paper.
        self.cached[gate, part] = shown.detach()
        return shown


@contextmanager
def patch_with_mixing(
    transformer: Any, sites: tuple[str, ...], cached: CachedParts = "output"
) -> Iterator[Mixer]:
    """Patch a model so that its sites show mixtures; gates are numbered by site, then layer."""
    mixer, num_layers = Mixer(), len(transformer.transformer_blocks)

    def show(place: Place, output: Tensor) -> Tensor:
        site, layer, part = place
        return mixer.mixed(site * num_layers + layer, part, output)

    with hook_sites(transformer, sites, cached, show):
        yield mixer
