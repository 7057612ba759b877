"""Copies of a model that share its weights: stock, with sites that cost nothing, and patched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from benchmarks.timing.support.device_clock import clock
from benchmarks.timing.support.interleaved_rounds import Ran, Variant
from benchmarks.timing.support.models import Batch
from dqar import DQARConfig, DQARController, DQARDiTWrapper
from dqar.gate_table import GateTable
from dqar.gates.base import Gate
from dqar.records import WHOLE_SITES

STEPS = 4
"""Timed steps of a run, after a first one that fills the cache."""
MODULES = {"attn": "attn1", "ff": "ff"}
"""Attribute of a block that holds each site."""


class TimedModel:
    """Copies of a model that share its weights, each set up once and timed many times.

    Args:
        model: a diffusers transformer; only copies of it are patched.
        cache_bits: bits of a cached value, unless a variant sets them.
        compiled: compile every copy separately.
    """

    def __init__(
        self, model: Any, batch: Batch, *, cache_bits: int = 32, compiled: bool = False
    ) -> None:
        self.model = model
        self.batch = batch
        self.cache_bits: Any = cache_bits
        self.compiled = compiled
        self.device: str = model.device.type
        self.watch: Callable[[], AbstractContextManager] = nullcontext
        """Makes a context manager for the timed steps of each run, such as a profiler."""
        self._patched: dict[tuple[str, ...], DQARDiTWrapper] = {}
        if compiled:
            allow_many_graphs()
        self.plain = self.ready(self.another())
        """Copy of the stock model, compiled if ``compiled``."""

    def num_gates(self, sites: tuple[str, ...]) -> int:
        """Number of gates in one step."""
        return GateTable.regular(sites, len(self.model.transformer_blocks)).num_gates

    def stock(self) -> Variant:
        """Variant of the stock model, compiled if ``compiled``."""
        return self.timed("stock", self.plain)

    def uncompiled(self) -> Variant:
        """Variant of the stock model, never compiled."""
        return self.timed("uncompiled", self.another())

    def free(self, sites: tuple[str, ...]) -> Variant:
        """Variant whose sites return their input, at no cost."""
        bare = self.another()
        free_sites(bare, sites)
        return self.timed(name_of("free", sites), self.ready(bare))

    def patched(
        self,
        name: str,
        sites: tuple[str, ...],
        gate: Gate,
        *,
        num_steps: int = STEPS,
        **changes: Any,
    ) -> Variant:
        """Variant of the patched model, with a new controller in each run.

        Args:
            changes: fields of the controller's :class:`~dqar.DQARConfig`.
        """
        wrapper = self.wrapper(sites)
        config = self.config(sites, **changes)

        def run() -> Ran:
            controller = DQARController(config, gate=gate)
            with wrapper.run(Schedule(num_steps), num_branches=2, controller=controller):
                seconds = self.time_steps(wrapper, num_steps)
            return Ran(seconds=seconds, cache_bytes=controller.cache.nbytes)

        return Variant(name=name, run=run)

    def config(self, sites: tuple[str, ...], **changes: Any) -> DQARConfig:
        """Configuration of a controller for the given sites."""
        return DQARConfig(**({"sites": sites, "quantization_bits": self.cache_bits} | changes))

    def wrapper(self, sites: tuple[str, ...]) -> DQARDiTWrapper:
        """The copy that is patched for the given sites, made once."""
        if sites not in self._patched:
            ready = self.ready(self.another())
            self._patched[sites] = DQARDiTWrapper(ready, DQARConfig(sites=sites))
        return self._patched[sites]

    def time_steps(self, model: Any, num_steps: int) -> float:
        """Mean seconds of a step, over ``num_steps`` steps after a first one."""
        timesteps = Schedule(num_steps).timesteps.tolist()

        def step(index: int) -> None:
            self.batch.call(model, timesteps[index])

        return time_steps(step, num_steps, self.device, self.watch())

    def timed(self, name: str, model: Any, num_steps: int = STEPS) -> Variant:
        """Variant that calls a model step by step without a controller."""
        return Variant(name=name, run=lambda: Ran(seconds=self.time_steps(model, num_steps)))

    def another(self) -> Any:
        """Copy the model; the copy shares the weights, and its modules can be patched."""
        shared = {id(value): value for value in [*self.model.parameters(), *self.model.buffers()]}
        return copy.deepcopy(self.model, shared)

    def ready(self, model: Any) -> Any:
        """Compile a model if ``compiled``."""
        return torch.compile(model) if self.compiled else model


class Schedule:
    """Replacement of a sampler's scheduler, with timesteps and the alphas of the SNR."""

    def __init__(self, num_steps: int) -> None:
        self.timesteps = torch.linspace(999, 0, num_steps + 1).round()
        self.alphas_cumprod = torch.linspace(0.9999, 0.0001, 1000)


@torch.no_grad()
def time_steps(
    step: Callable[[int], Any], num_steps: int, device: str, watch: AbstractContextManager
) -> float:
    """Mean seconds of ``num_steps`` steps after a first one; ``watch`` is entered around them."""
    step(0)
    clock(device)
    with watch:
        started = clock(device)
        for index in range(1, num_steps + 1):
            step(index)
        return (clock(device) - started) / num_steps


def free_sites(model: Any, sites: tuple[str, ...]) -> None:
    """Let the given sites of a model return their input."""
    for block in model.transformer_blocks:
        for site in sites:
            whole = site in WHOLE_SITES
            module: nn.Module = block if whole else getattr(block, MODULES[site])
            module.forward = _given


def _given(hidden_states: Any, *_: Any, **__: Any) -> Any:
    return hidden_states


def name_of(kind: str, sites: tuple[str, ...], *rest: object) -> str:
    """Name of a variant, such as ``forced attn,ff 0.5``."""
    return " ".join([kind, ",".join(sites), *map(str, rest)])


def allow_many_graphs() -> None:
    """Raise Dynamo's limits on graphs.

    By default Dynamo compiles 8 graphs of a function and then falls back to eager mode without an
    error; all copies of a model share that count.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.accumulated_recompile_limit = 4096
