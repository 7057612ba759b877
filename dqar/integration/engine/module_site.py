"""Reuse of what a module of a block returns: attention or feed-forward."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from dqar.cache.site_tensors import Fresh
from dqar.control.controller import DQARController
from dqar.integration.engine.description import Site
from dqar.integration.engine.entropy import Attention
from dqar.integration.engine.part_computation import Computed, computed_rows
from dqar.integration.engine.returned import Layout, folded, unfolded
from dqar.integration.engine.site_call import SiteCall

ATTENTIONS = ("attn", "cross")
"""Sites whose modules attend."""


class ModuleSite:
    """The execution of one site of one layer under a controller."""

    def __init__(self, module: nn.Module, site: Site, name: str, layer: int) -> None:
        self.module = module
        self.site = site
        self.name = name
        self.layer = layer
        self._attention = Attention(module=module, arithmetic=site.attention, is_site=True)
        self._layout: Layout | None = None

    def __call__(self, controller: DQARController, call: SiteCall) -> Any:
        """Return what the module returns, each row computed or reused."""
        fold = call.fold

        def compute(rows: Tensor | None) -> Fresh:
            def computed() -> Computed:
                return computed_rows(call, rows, self.site.by_row, self.site.returns)

            if self.name in ATTENTIONS:
                found, entropy = self._attention.measured(controller, computed, fold)
            else:
                found, entropy = computed(), None
            self._layout = found.layout
            parts = {name: folded(part, fold) for name, part in found.parts.items()}
            return Fresh(parts=parts, entropy=entropy)

        parts = controller.through(self.layer, self.name, compute)
        assert self._layout is not None  # a run computes before it reuses
        return self._layout.rebuilt(
            {name: self._kept(unfolded(part, fold)) for name, part in parts.items()}
        )

    def _kept(self, output: Tensor) -> Tensor:
        """Return an output, copied if the module has a forward hook. A hook may keep the tensor,
        which can belong to the cache and be overwritten by a later step; the block reads it before
        that."""
        is_seen = bool(self.module._forward_hooks) or _has_any_global_hook()
        return output.clone() if is_seen else output
