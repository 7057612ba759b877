"""Patching of a model: replace ``forward`` of a module on the instance, and hook the transformer.

A model may be compiled before or after it is patched. Dynamo runs the hooks without tracing them,
which breaks the graph once a step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dqar.integration.run_slot import RunSlot
from dqar.integration.served_models import refuse_checkpointing


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


class StepHook:
    """A hook that opens the next step of this thread's run before each call of the transformer.

    A copy of the transformer gets a copy of the hook with an empty :class:`RunSlot`, which does
    nothing.
    """

    def __init__(self, slot: RunSlot) -> None:
        self.slot = slot

    # torch passes no kwargs if another thread calls the model while the hook is registered or
    # removed.
    def __call__(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        if self.slot.run is not None:
            self.slot.run.before_call(*latents_and_timestep(args, kwargs or {}))
            if self.slot.acting is not None:
                refuse_checkpointing(module)

    def __reduce__(self) -> tuple:
        return _step_hook, (self.slot,)


class OutputHook:
    """A hook that replaces the transformer's output by the corrected output of this thread's run.

    A copy of the transformer gets a copy of the hook with an empty :class:`RunSlot`, which does
    nothing.
    """

    def __init__(self, slot: RunSlot) -> None:
        self.slot = slot

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        del module, args
        return None if self.slot.run is None else with_output(output, self.slot.run.after_call)

    def __reduce__(self) -> tuple:
        return _output_hook, (self.slot,)


def with_output(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``change`` to the tensor in a transformer's output, which is a tuple or a diffusers
    output class. If ``change`` returns the same tensor, the output itself is returned."""
    is_tuple = isinstance(output, tuple)
    before = output[0] if is_tuple else output.sample
    after = change(before)
    if after is before:
        return output
    return (after, *output[1:]) if is_tuple else type(output)(sample=after)


def hook_outputs(transformer: nn.Module, slot: RunSlot) -> RemovableHandle:
    """Register the hook that corrects each output of a transformer; see :func:`hook_steps`."""
    return transformer.register_forward_hook(_output_hook(slot))


def _output_hook(slot: RunSlot) -> OutputHook:
    return untraced_class(OutputHook)(slot)


def hook_steps(transformer: nn.Module, slot: RunSlot) -> RemovableHandle:
    """Register the hook that opens a step at each call of a transformer.

    A hook is used, not a replaced ``forward``, since offloading replaces the transformer's
    ``forward`` between runs. The hook stays registered while the model is patched, since dynamo
    does not notice hooks that are added or removed after compilation.
    """
    return transformer.register_forward_pre_hook(_step_hook(slot), with_kwargs=True)


def _step_hook(slot: RunSlot) -> StepHook:
    return untraced_class(StepHook)(slot)


@cache
def untraced_class(kind: Any) -> Any:
    """Return a subclass whose ``__call__`` dynamo runs without tracing it."""
    # Made on first use: torch.compiler.disable imports dynamo, which takes a second.
    return type(kind.__name__, (kind,), {"__call__": torch.compiler.disable(kind.__call__)})
