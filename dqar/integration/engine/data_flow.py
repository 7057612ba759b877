"""Stacks and streams of a transformer that no family describes, found by its data flow.

When a model is patched, every list of blocks of one class is taken for a stack. In its first call
the streams show: an output of a block that *is* an argument of the next, the same tensor object.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from dqar.control.controller import DQARController
from dqar.integration.engine.block_site import BlockSite
from dqar.integration.engine.description import Family, Stack
from dqar.integration.engine.site_call import SiteCall
from dqar.integration.engine.stack_site import StackSite


def found_family(transformer: nn.Module) -> Family:
    """Describe a transformer by its lists of blocks; their streams show in the first call.

    Raises:
        ValueError: if it has no list of at least two blocks of one class.
    """
    lists = dict(_block_lists(transformer))
    if not lists:
        raise ValueError(
            "The model must have a list of blocks of one class. Got "
            f"{type(transformer).__name__} with {_seen(transformer)}. Describe its family with "
            "dqar.integration.families, or pass a transformer of diffusers."
        )
    return Family(stacks=tuple(Stack(path=path, streams=()) for path in lists))


def _block_lists(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.ModuleList) and _are_blocks(child):
            yield path, child
        elif not isinstance(child, nn.ModuleList):
            yield from _block_lists(child, f"{path}.")


def _are_blocks(modules: nn.ModuleList) -> bool:
    kinds = {type(one) for one in modules}
    return len(modules) > 1 and len(kinds) == 1 and all(any(one.children()) for one in modules)


def _seen(transformer: nn.Module) -> str:
    found = [
        f"{name} ({len(child)} x {', '.join(sorted({type(one).__name__ for one in child}))})"
        for name, child in transformer.named_modules()
        if isinstance(child, nn.ModuleList)
    ]
    return "the lists " + ", ".join(found) if found else "no list of modules"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Computed:
    """A block that was computed before its streams were known."""

    act: Any
    call: SiteCall
    returned: Any


class StreamSearch:
    """The search for the streams of one stack, which ends at its second block's first call.

    Args:
        kind: class of the blocks.
        sites: the executions of the stack's blocks, which get the streams once they are found.
    """

    def __init__(
        self, stack: Stack, kind: type[nn.Module], sites: list[BlockSite] | list[StackSite]
    ) -> None:
        self.stack = stack
        self._kind = kind
        self._sites = sites
        self._of_thread = threading.local()

    def wrap(self, place: int, act: Any) -> Any:
        """Return the function that runs the block at a place, before and after the search."""

        def run(controller: DQARController, call: SiteCall) -> Any:
            if self.stack.streams:
                return act(controller, call)
            before: _Computed | None = getattr(self._of_thread, "before", None)
            if place == 0 or before is None:
                returned = call.computed()
                self._of_thread.before = _Computed(act=act, call=call, returned=returned)
                return returned
            self._end(before.returned, call)
            self._of_thread.before = None
            # The first block goes through the controller now, with what it returned.
            before.act(controller, replace(before.call, inner=lambda *_, **__: before.returned))
            return act(controller, call)

        return run

    def _end(self, returned: Any, call: SiteCall) -> None:
        streams = streams_between(returned, call)
        if not any(streams):
            raise ValueError(
                "A block must hand its streams on to the next. Got "
                f"{self.stack.path}, whose next block takes {_kinds(call)}, and none of it is "
                f"what the first returned. Describe the family with dqar.integration.families."
            )
        _refuse_another_registration(self._kind, streams)
        named = tuple(name or f"output{place}" for place, name in enumerate(streams))
        self.stack = replace(self.stack, streams=named)
        for site in self._sites:
            site.stack = self.stack


def streams_between(returned: Any, call: SiteCall) -> list[str | None]:
    """Name, for each output of a block, the argument of the next block that is the same object."""
    outputs = returned if isinstance(returned, tuple) else (returned,)
    given = call.named
    return [
        next((name for name, value in given.items() if value is output), None)
        if isinstance(output, Tensor)
        else None
        for output in outputs
    ]


def _refuse_another_registration(kind: type[nn.Module], streams: list[str | None]) -> None:
    """Refuse a class of blocks that diffusers has registered with another order of outputs."""
    if not kind.__module__.startswith("diffusers."):
        return
    from diffusers.hooks._helpers import TransformerBlockRegistry

    try:
        registered = TransformerBlockRegistry.get(kind)
    except ValueError:
        return
    place, name = registered.return_hidden_states_index, registered.hidden_states_argument_name
    is_another = place is not None and len(streams) > 1 and streams[place] != name
    if is_another:
        raise ValueError(
            f"Data flow must agree with diffusers' registry. Got {name} as output {place} of "
            f"{kind.__name__} there, and {streams} here. Describe the family with "
            "dqar.integration.families."
        )


def _kinds(call: SiteCall) -> str:
    return ", ".join(f"{name}: {type(value).__name__}" for name, value in call.named.items())
