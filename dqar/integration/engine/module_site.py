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
        self._counts: list[tuple[Tensor, int]] = []
        self._is_written = False

    def __call__(self, controller: DQARController, call: SiteCall) -> Any:
        """Return what the module returns, each row computed or reused."""
        fold, is_cached = call.fold, True
        self._is_written |= any(count._version != writes for count, writes in self._counts)

        def compute(rows: Tensor | None) -> Fresh:
            nonlocal is_cached
            is_cached = False

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
        outputs = {
            name: self._kept(unfolded(part, fold), is_cached) for name, part in parts.items()
        }
        if not is_cached:
            counted = (one for one in outputs.values() if not one.is_inference())
            self._counts = [*map(_count_of_writes, counted)]
        return self._layout.rebuilt(outputs)

    def _kept(self, output: Tensor, is_cached: bool) -> Tensor:
        """Return an output, copied where the tensor, which can belong to the cache, would not stay
        as it is: a forward hook may keep it until a later step overwrites it, and a block may write
        to it in place, which shows in the outputs that it computed. In inference mode nothing shows
        it, since PyTorch counts no writes there."""
        is_seen = bool(self.module._forward_hooks) or _has_any_global_hook()
        is_at_risk = is_cached and (self._is_written or output.is_inference())
        return output.clone() if is_seen or is_at_risk else output


def _count_of_writes(output: Tensor) -> tuple[Tensor, int]:
    """Return a tensor without elements that shares the output's count of writes, and the count now,
    so that the output itself is not kept."""
    count = output.detach()
    count.data = output.new_empty(0)
    return count, count._version
