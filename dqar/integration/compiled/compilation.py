"""Compilation of a planned transformer by ``torch.compile``: whole steps, or single blocks."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal, get_args, no_type_check

import torch
from torch import Tensor

Region = Literal["step", "block"]
"""Part of the model that is compiled as one graph."""
MODES = (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
GRAPHED = ("reduce-overhead", "max-autotune")
"""Modes in which Inductor replays CUDA graphs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compilation:
    """Options of ``torch.compile``, which runs without graph breaks."""

    region: Region = "step"
    """``step`` compiles whole steps, one graph for each distinct step of the plan. ``block``
    compiles single blocks, one graph for each combination of roles (compute, keep, reuse) of a
    block's sites, shared by all layers. If all forecasts of a plan have one order, that is at most
    3 graphs for one site and 9 for two. An input of another memory layout, as the first block may
    get, takes one more graph for each combination."""
    backend: str | Callable[..., Any] = "inductor"
    """Backend of ``torch.compile``."""
    mode: str | None = None
    """Mode of ``torch.compile``; ``reduce-overhead`` and ``max-autotune`` replay CUDA graphs."""

    def __post_init__(self) -> None:
        for name, choices in (("region", get_args(Region)), ("mode", MODES)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {choices}. Got {getattr(self, name)!r}. "
                    f"Pass {choices[0]!r}."
                )

    @property
    def replays_graphs(self) -> bool:
        """True if CUDA graphs are replayed, whose next replay overwrites earlier outputs."""
        return self.mode in GRAPHED


class Regions:
    """Compiled functions that call a module, one for each key."""

    def __init__(self, compilation: Compilation) -> None:
        self.compilation = compilation
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    def __len__(self) -> int:
        return len(self._compiled)

    def __call__(self, key: Hashable) -> Callable[..., Any]:
        """Return the compiled function of a key; it calls ``forward`` of its first argument, a
        module, with the other arguments."""
        if key not in self._compiled:
            self._compiled[key] = self._compile()
        return self._compiled[key]

    def kept_apart(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``call`` with its outputs cloned if CUDA graphs are replayed, so that the next
        call does not overwrite them."""
        if not self.compilation.replays_graphs:
            return call

        def apart(*args: Any, **kwargs: Any) -> Any:
            torch.compiler.cudagraph_mark_step_begin()
            output = call(*args, **kwargs)
            if isinstance(output, tuple):
                return tuple(value.clone() for value in output)
            return type(output)(**{name: value.clone() for name, value in output.items()})

        return apart

    def _compile(self) -> Callable[..., Any]:
        # A separate code object, since dynamo's recompile limit counts by code object.
        call = FunctionType(_call.__code__.replace(), _call.__globals__, _call.__name__)
        options = self.compilation
        return torch.compile(call, fullgraph=True, backend=options.backend, mode=options.mode)


def fix_address(tensor: Tensor) -> None:
    """Mark a tensor's address as fixed, so that CUDA graphs may write to it in place."""
    # Imported on use: dynamo takes a second to import.
    from torch._dynamo import mark_static_address

    mark_static_address(tensor)


@no_type_check
def _call(module, *args, **kwargs):
    return module.forward(*args, **kwargs)
