"""What of a planned transformer is compiled, and how: whole steps, or single blocks."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal, get_args, no_type_check

import torch
from torch import Tensor

Region = Literal["step", "block"]
MODES = (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
GRAPHED = ("reduce-overhead", "max-autotune")
"""Modes in which Inductor replays CUDA graphs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compilation:
    """How ``torch.compile`` is used, without graph breaks."""

    region: Region = "step"
    """``step`` compiles whole steps, one graph for each distinct step of the plan. ``block``
    compiles single blocks, one for each combination of what the sites of a block do, shared by
    all layers: at most 3 of one site and 9 of two, whatever the plan, where all gates come to
    forecasts of the same order. The first block may be given another memory layout than the others,
    which takes one more of each."""
    backend: str | Callable[..., Any] = "inductor"
    """As in ``torch.compile``."""
    mode: str | None = None
    """As in ``torch.compile``; ``reduce-overhead`` replays CUDA graphs."""

    def __post_init__(self) -> None:
        for name, choices in (("region", get_args(Region)), ("mode", MODES)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {choices}. Got {getattr(self, name)!r}. "
                    f"Pass {choices[0]!r}."
                )

    @property
    def replays_graphs(self) -> bool:
        """Whether outputs lie in memory that the next replay overwrites."""
        return self.mode in GRAPHED


class Regions:
    """Compiled calls of a module, one for each key."""

    def __init__(self, compilation: Compilation) -> None:
        self.compilation = compilation
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    def __len__(self) -> int:
        return len(self._compiled)

    def __call__(self, key: Hashable) -> Callable[..., Any]:
        """Calls the ``forward`` of its first argument with the others."""
        if key not in self._compiled:
            self._compiled[key] = self._compile()
        return self._compiled[key]

    def kept_apart(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, whose outputs outlive the next one also where CUDA graphs are replayed."""
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
        # A code object of its own, since dynamo counts towards its recompile limit by code.
        call = FunctionType(_call.__code__.replace(), _call.__globals__, _call.__name__)
        options = self.compilation
        return torch.compile(call, fullgraph=True, backend=options.backend, mode=options.mode)


def fix_address(tensor: Tensor) -> None:
    """Tell CUDA graphs that a tensor stays where it is, so that it may be written to in place."""
    # Imported here, since dynamo takes a second to import.
    from torch._dynamo import mark_static_address

    mark_static_address(tensor)


@no_type_check
def _call(module, *args, **kwargs):
    return module.forward(*args, **kwargs)
