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
