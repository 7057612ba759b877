"""An independent reuse: plain replacements of ``forward``, which share no code with the library.

At a step that computes, each module's value is kept, apart for each call of a transformer within
the step. At the other steps the kept value is returned, unless the call had none in the step before
(a guidance branch that begins, or one with another number of rows): then everything is computed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from tests.conformance.pipelines.case import Case

Computes = Callable[[int], bool]
"""True for the index of a step that computes."""


def every_second(step: int) -> bool:
    return step % 2 == 0


def only_first(step: int) -> bool:
    return step == 0


def modules_of(model: nn.Module, pattern: str) -> list[nn.Module]:
    """Modules by a pattern in which ``*`` is the number of a block, in order.

    A module that some blocks lack (``ff_context`` of the last) is None there, and left out.
    """
    named = [
        (name, module)
        for name, module in model.named_modules()
        if fnmatchcase(name, pattern) and name.count(".") == pattern.count(".")
    ]
    return [module for _, module in named]


class Clock:
    """Counts steps by ``scheduler.step``, and calls of transformers within a step."""

    def __init__(self, first: int) -> None:
        self.step = first
        self.call: tuple[int, int] = (0, 0)
        """Index of the transformer and index of its call in this step."""
        self.rows: dict[tuple[int, int], int] = {}
        """Rows of each call of this step so far."""
        self.rows_before: dict[tuple[int, int], int] = {}
        self.calls: list[int] = []
        """Number of calls of each step."""

    def tick(self) -> None:
        self.calls.append(len(self.rows))
        self.step += 1
        self.rows_before, self.rows = self.rows, {}

    def begin(self, which: int, latents: Any) -> None:
        count = sum(1 for transformer, _ in self.rows if transformer == which)
        self.call = (which, count)
        self.rows[self.call] = len(latents)

    @property
    def continues(self) -> bool:
        """True if this call was made in the step before, with as many rows."""
        return self.rows_before.get(self.call) == self.rows[self.call]


@contextmanager
def counted(pipe: Any, case: Case, first: int = 0) -> Iterator[Clock]:
    """Count steps and calls of a pipeline's run, which starts at a step of the schedule."""
    clock = Clock(first)
    stepping = pipe.scheduler.step

    @functools.wraps(stepping)
    def step(*args: Any, **kwargs: Any) -> Any:
        clock.tick()
        return stepping(*args, **kwargs)

    def before(which: int, module: Any, args: Any, kwargs: Any) -> None:
        del module
        clock.begin(which, args[0] if args else kwargs["hidden_states"])

    hooks = [
        getattr(pipe, name).register_forward_pre_hook(
            functools.partial(before, which), with_kwargs=True
        )
        for which, name in enumerate(case.names)
    ]
    pipe.scheduler.step = step
    try:
        yield clock
    finally:
        del pipe.scheduler.step
        for hook in hooks:
            hook.remove()


def streams_given(inner: Callable[..., Any], names: tuple[str, ...], args: Any, kwargs: Any):
    """Values of a block's streams among its arguments."""
    bound = inspect.signature(inner).bind(*args, **kwargs)
    return [bound.arguments[name] for name in names]


def tuple_or_one(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


def added(values: list[Any], residuals: list[Any]) -> list[Any]:
    """Streams with their residuals; a stream that a block does not return has none."""
    return [
        value if residual is None else value + residual
        for value, residual in zip(values, residuals, strict=True)
    ]


def dropped(values: list[Any], residuals: list[Any]) -> list[Any]:
    """None for each stream that has no residual, as the block returns it."""
    return [
        None if residual is None else value
        for value, residual in zip(values, residuals, strict=True)
    ]


def residuals_of(returned: Any, given: list[Any]) -> list[Any]:
    outputs = [returned] if isinstance(returned, Tensor) else list(returned)
    return [
        None if output is None else output - value
        for output, value in zip(outputs, given, strict=True)
    ]


class Replay:
    """Replaces ``forward`` of the modules of some sites of a pipeline."""

    def __init__(self, pipe: Any, case: Case, clock: Clock, computes: Computes) -> None:
        self.pipe, self.case, self.clock, self.computes = pipe, case, clock, computes
        self.kept: dict[Any, Any] = {}

    def attach(self, sites: tuple[str, ...]) -> None:
        for name in self.case.names:
            model = getattr(self.pipe, name)
            for site in sites:
                if site == "block":
                    for pattern in self.case.blocks:
                        for module in modules_of(model, pattern):
                            self.patch_block(module)
                elif site == "stack":
                    for pattern in self.case.blocks:
                        self.patch_stack(modules_of(model, pattern))
                else:
                    for pattern in self.case.sites[site]:
                        for module in modules_of(model, pattern):
                            self.patch_output(module)

    def has(self, key: Any) -> bool:
        """True if the value under the key is returned in this call."""
        clock = self.clock
        reuses = not self.computes(clock.step) and clock.continues
        return reuses and (key, clock.call) in self.kept

    def patch_output(self, module: Any) -> None:
        inner = module.forward

        @functools.wraps(inner)
        def forward(*args: Any, **kwargs: Any) -> Any:
            key = (module, self.clock.call)
            if not self.has(module):
                self.kept[key] = inner(*args, **kwargs)
            return self.kept[key]

        module.forward = forward

    def patch_block(self, module: Any) -> None:
        self.patch_stack([module])

    def patch_stack(self, modules: list[Any]) -> None:
        """The first block adds the residual of the whole stack, the others do nothing."""
        first, last = modules[0], modules[-1]
        entered: dict[Any, list[Any]] = {}

        def replacement(module: Any, inner: Any) -> Any:
            @functools.wraps(inner)
            def forward(*args: Any, **kwargs: Any) -> Any:
                streams = streams_given(inner, self.case.streams, args, kwargs)
                key = (first, self.clock.call)
                if self.has(first):
                    if module is first:
                        streams = added(streams, self.kept[key])
                    if module is last:
                        streams = dropped(streams, self.kept[key])
                    return tuple_or_one(streams)
                if module is first:
                    entered[self.clock.call] = streams
                returned = inner(*args, **kwargs)
                if module is last:
                    self.kept[key] = residuals_of(returned, entered[self.clock.call])
                return returned

            return forward

        for module in modules:
            module.forward = replacement(module, module.forward)
