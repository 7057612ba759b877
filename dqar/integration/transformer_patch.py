"""The patches of one transformer: its sites, the hooks of its calls, and its ``cache_context``."""

from __future__ import annotations

from typing import Any

from dqar.gate_table import GateTable
from dqar.integration.forward_patch import Replacement, refuse_cached
from dqar.integration.guidance.cache_context import CacheContextName
from dqar.integration.run_slot import RunSlot
from dqar.integration.sites import attach, detach, gate_table
from dqar.integration.step_hook import hook_outputs, hook_steps


class TransformerPatch:
    """The patches of one transformer, for all runs of a slot.

    Args:
        transformer: a diffusers transformer, compiled or not.
        first_layer: number of its first layer among those of several transformers.
        is_alone: False if the controller's run also calls another transformer.

    Raises:
        ValueError: if the transformer has a DQAR cache, or cannot be patched.
    """

    def __init__(
        self, transformer: Any, slot: RunSlot, first_layer: int = 0, *, is_alone: bool = True
    ) -> None:
        self.transformer = transformer
        self.slot = slot
        model = uncompiled(transformer)
        refuse_cached(model)
        self.reroutes: list[Replacement] = attach(model, slot, first_layer)
        self.context = CacheContextName(model)
        layers = None if is_alone else range(first_layer, first_layer + self.table.num_layers)
        self.hooks = [hook_steps(model, slot, self.context, layers), hook_outputs(model, slot)]

    @property
    def table(self) -> GateTable:
        """Gates of the transformer."""
        return gate_table(uncompiled(self.transformer), self.slot.sites)

    def remove(self) -> None:
        """Restore the transformer.

        Raises:
            ValueError: if a module was patched again later.
        """
        detach(self.reroutes)
        self.context.restore()
        for hook in self.hooks:
            hook.remove()


def uncompiled(transformer: Any) -> Any:
    """Return the model that ``torch.compile`` was given, or the model itself."""
    # torch.compile(model) returns a module that holds the model as _orig_mod.
    return getattr(transformer, "_orig_mod", transformer)


def num_heads_of(transformer: Any) -> int | None:
    """Attention heads of a transformer, if its configuration says them."""
    config = uncompiled(transformer).config
    names = ("num_attention_heads", "n_heads", "num_heads")
    return next((getattr(config, name) for name in names if hasattr(config, name)), None)
