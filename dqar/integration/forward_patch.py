"""A site's ``forward`` replaced on the instance and put back; a hook that counts the steps.

A model may be compiled before or after it is patched. Dynamo runs the hook instead of tracing it,
which is the one break of a step; in a run the sites are operators that it calls
(:mod:`dqar.integration.custom_op`), and outside of runs the model is compiled as stock.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dqar.control.controller import DQARController
from dqar.integration.custom_op import called, fits, number_of
from dqar.integration.run_slot import RunSlot


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteCall:
    """One call of a site: what it was given, and how it computes."""

    inner: Callable[..., Any]
    """The site's own forward."""
    hidden: Float[Tensor, "r n d"]
    args: tuple
    kwargs: dict[str, Any]

    def given(self, rows: Int[Tensor, " s"] | None) -> Float[Tensor, "s n d"]:
        """Hidden states of some rows, or of all (None)."""
        return self.hidden if rows is None else self.hidden[rows]

    def computed(self, rows: Int[Tensor, " s"] | None) -> Float[Tensor, "s n d"]:
        """The site's output for those rows; the other arguments are the same for each row."""
        return self.inner(self.given(rows), *self.args, **self.kwargs)


SiteFn = Callable[[DQARController, SiteCall], Tensor]
"""Computes a site for a controller."""


class Replacement:
    """Stands in for a module's forward.

    A deep copy or a pickle of the module is not patched: in it the inner forward, its own, stands
    in this one's place.
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
        """Whether nothing else was patched over it since."""
        return self.module.__dict__.get("forward") is self

    def restore(self) -> None:
        """Put the inner forward back."""
        if getattr(self.inner, "__self__", None) is self.module:
            del self.module.__dict__["forward"]
        else:
            self.module.forward = self.inner


class PatchedForward(Replacement):
    """Asks this thread's controller, unless that leaves the step to the model."""

    def __init__(self, module: nn.Module, slot: RunSlot, act: SiteFn) -> None:
        super().__init__(module)
        self.slot = slot
        self.act: SiteFn = act
        self.number = number_of(self)
        self._through: Any = torch.compiler.disable(self.acted)

    # Dynamo traces this, and so it reads nothing of a thread and has no types to check.
    @no_type_check
    def __call__(self, hidden_states, *args, **kwargs):
        if not self.slot.is_taken:
            return self.inner(hidden_states, *args, **kwargs)
        if torch.compiler.is_compiling() and fits(args, kwargs):
            return called(self.number, hidden_states, kwargs)
        return self._through(hidden_states, args, kwargs)

    def acted(self, hidden: Tensor, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """The site's output, from this thread's controller or, without one, computed."""
        controller = self.slot.acting
        if controller is None:
            return self.inner(hidden, *args, **kwargs)
        call = SiteCall(inner=self.inner, hidden=hidden, args=args, kwargs=kwargs)
        return self.act(controller, call)


def reroute(module: nn.Module, slot: RunSlot, act: SiteFn) -> PatchedForward:
    """Let a controller act in a module's place."""
    module.forward = rerouted = PatchedForward(module, slot, act)
    return rerouted


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
    """Opens the next step of this thread's run before each call of the transformer.

    A copy of the transformer gets one of its own, whose seat stays empty.
    """

    def __init__(self, slot: RunSlot) -> None:
        self.slot = slot

    # Without kwargs where another thread calls the model while this hook comes or goes.
    def __call__(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        del module
        if self.slot.run is not None:
            self.slot.run.before_call(*latents_and_timestep(args, kwargs or {}))

    def __reduce__(self) -> tuple:
        return _step_hook, (self.slot,)


class OutputHook:
    """Shows the sampler what this thread's run makes of the transformer's output.

    A copy of the transformer gets one of its own, whose seat stays empty.
    """

    def __init__(self, slot: RunSlot) -> None:
        self.slot = slot

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        del module, args
        return None if self.slot.run is None else with_output(output, self.slot.run.after_call)

    def __reduce__(self) -> tuple:
        return _output_hook, (self.slot,)


def with_output(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A transformer's answer, a tuple or of a class of diffusers', with its tensor changed; itself
    where the tensor is the same."""
    is_tuple = isinstance(output, tuple)
    before = output[0] if is_tuple else output.sample
    after = change(before)
    if after is before:
        return output
    return (after, *output[1:]) if is_tuple else type(output)(sample=after)


def hook_outputs(transformer: nn.Module, slot: RunSlot) -> RemovableHandle:
    """Let each call of a transformer show what its run makes of the output; a hook as
    :func:`hook_steps`."""
    return transformer.register_forward_hook(_output_hook(slot))


def _output_hook(slot: RunSlot) -> OutputHook:
    return untraced_class(OutputHook)(slot)


def hook_steps(transformer: nn.Module, slot: RunSlot) -> RemovableHandle:
    """Let each call of a transformer open a step.

    A hook, since offloading replaces the forward of the whole model between two runs; and for as
    long as the model is patched, since dynamo does not notice a hook that comes or goes later.
    """
    return transformer.register_forward_pre_hook(_step_hook(slot), with_kwargs=True)


def _step_hook(slot: RunSlot) -> StepHook:
    return untraced_class(StepHook)(slot)


@cache
def untraced_class(kind: Any) -> Any:
    """A class like this one, whose calls dynamo runs and does not trace."""
    # Not a decorator of the class, since decorating imports dynamo, which takes a second.
    return type(kind.__name__, (kind,), {"__call__": torch.compiler.disable(kind.__call__)})
