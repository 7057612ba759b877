"""A site's ``forward`` replaced on the instance and put back; a hook that counts the steps.

Dynamo runs both instead of tracing them, so that a model may be compiled before or after it is
patched: what it does outside its sites is compiled, and the sites of a running controller are not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dqar.controller import DQARController
from dqar.integration.seat import Seat


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


Act = Callable[[DQARController, SiteCall], Tensor]
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


class Reroute(Replacement):
    """Asks this thread's controller, unless that leaves the step to the model."""

    def __init__(self, module: nn.Module, seat: Seat, act: Act) -> None:
        super().__init__(module)
        self.seat = seat
        self.act: Act = act
        self._through: Callable[..., Tensor] = _untraced(self._act)

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        controller = self.seat.acting
        if controller is None:
            return self.inner(hidden_states, *args, **kwargs)
        return self._through(controller, hidden_states, args, kwargs)

    def _act(
        self, controller: DQARController, hidden: Tensor, args: tuple, kwargs: dict[str, Any]
    ) -> Tensor:
        call = SiteCall(inner=self.inner, hidden=hidden, args=args, kwargs=kwargs)
        return self.act(controller, call)


def reroute(module: nn.Module, seat: Seat, act: Act) -> Reroute:
    """Let a controller act in a module's place."""
    rerouted: Reroute = untraced_class(Reroute)(module, seat, act)
    module.forward = rerouted
    return rerouted


class StepHook:
    """Opens the next step of this thread's run before each call of the transformer.

    A copy of the transformer gets one of its own, whose seat stays empty.
    """

    def __init__(self, seat: Seat) -> None:
        self.seat = seat

    # Without kwargs where another thread calls the model while this hook comes or goes.
    def __call__(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        del module
        if self.seat.run is not None:
            self.seat.run.before_call(args[0] if args else (kwargs or {})["hidden_states"])

    def __reduce__(self) -> tuple:
        return _step_hook, (self.seat,)


def hook_steps(transformer: nn.Module, seat: Seat) -> RemovableHandle:
    """Let each call of a transformer open a step.

    A hook, since offloading replaces the forward of the whole model between two runs; and for as
    long as the model is patched, since dynamo does not notice a hook that comes or goes later.
    """
    return transformer.register_forward_pre_hook(_step_hook(seat), with_kwargs=True)


def _step_hook(seat: Seat) -> StepHook:
    return untraced_class(StepHook, recursive=True)(seat)


def _untraced(function: Any, recursive: bool = True) -> Any:
    return torch.compiler.disable(function, recursive=recursive)


@cache
def untraced_class(kind: Any, recursive: bool = False) -> Any:
    """A class like this one, whose calls dynamo runs and does not trace."""
    # Not a decorator of the class, since decorating imports dynamo, which takes a second. And
    # around a reroute alone, not what it calls: dynamo is to compile the inner forward.
    return type(kind.__name__, (kind,), {"__call__": _untraced(kind.__call__, recursive)})
