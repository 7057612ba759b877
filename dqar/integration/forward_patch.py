"""Patching of a model: replace ``forward`` of a module on the instance, and read and change the
arguments and outputs of a transformer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


class Replacement:
    """A replacement of a module's ``forward``, kept on the instance until it is restored.

    A deep copy or a pickle of the module is not patched: it has the original ``forward``.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inner: Callable[..., Any] = module.forward

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.inner, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)

    @property
    def is_on_top(self) -> bool:
        """True if the module's ``forward`` is still this replacement."""
        return self.module.__dict__.get("forward") is self

    def restore(self) -> None:
        """Put the original ``forward`` back."""
        if getattr(self.inner, "__self__", None) is self.module:
            del self.module.__dict__["forward"]
        else:
            self.module.forward = self.inner


CACHE_HOOK = "dqar_cache"
"""Name of diffusers' hook on a transformer that has a DQAR cache."""


def refuse_cached(transformer: nn.Module) -> None:
    """Refuse to patch a transformer that has a DQAR cache, since both would run its sites.

    Raises:
        ValueError: saying so.
    """
    registry: Any = getattr(transformer, "_diffusers_hook", None)
    if registry is not None and registry.get_hook(CACHE_HOOK) is not None:
        raise ValueError(
            "A transformer must be patched or have a DQAR cache, not both. Got one with a cache. "
            "Call remove_dqar_cache(transformer) first."
        )


def refuse_patched(transformer: nn.Module) -> None:
    """Refuse to apply a DQAR cache to a patched transformer.

    Raises:
        ValueError: saying so.
    """
    if any(map(_is_patched, transformer.modules())):
        raise ValueError(
            "A transformer must be patched or have a DQAR cache, not both. Got a patched one. "
            "Call unpatch_pipeline(pipe), or unpatch() of its wrapper or PlannedDiT, first."
        )


def _is_patched(module: nn.Module) -> bool:
    # Offloading keeps the forward that it replaces: accelerate as _old_forward, diffusers by hook.
    own, registry = vars(module), getattr(module, "_diffusers_hook", None)
    below = [getattr(one, "original_forward", None) for one in getattr(registry, "_fn_refs", ())]
    found = (own.get("forward"), own.get("_old_forward"), *below)
    return any(isinstance(forward, Replacement) for forward in found)


def latents_and_timestep(args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, Any]:
    """The first two arguments of a transformer's call, by place or by name.

    Raises:
        ValueError: without a timestep.
    """
    hidden_states = args[0] if args else kwargs["hidden_states"]
    timestep = args[1] if len(args) > 1 else kwargs.get("timestep")
    if timestep is None:
        raise ValueError(
            "A run must call the model with a timestep. Got none. Pass timestep=, one of the "
            "scheduler's."
        )
    return hidden_states, timestep


def with_output(output: Any, change: Callable[[Any], Any]) -> Any:
    """Apply ``change`` to the tensor in a transformer's output: the output itself, the first of a
    tuple, or the ``sample`` of a diffusers output class. If ``change`` returns the same tensor, the
    output itself is returned."""
    is_tuple = isinstance(output, tuple)
    before = output[0] if is_tuple else getattr(output, "sample", output)
    after = change(before)
    if after is before:
        return output
    if is_tuple:
        return (after, *output[1:])
    if before is output:
        return after
    fields = output if isinstance(output, Mapping) else {}
    return type(output)(**{**fields, "sample": after})


@cache
def untraced_class(kind: Any) -> Any:
    """Return a subclass whose ``__call__`` dynamo runs without tracing it."""
    # Made on first use: torch.compiler.disable imports dynamo, which takes a second.
    return type(kind.__name__, (kind,), {"__call__": torch.compiler.disable(kind.__call__)})
