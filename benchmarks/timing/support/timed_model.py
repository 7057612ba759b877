"""A model on the stand: as it is, with free sites, and patched; all on the same weights."""

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
from dqar.gates.base import Gate

STEPS = 4
"""Timed steps of a run, after a first one that fills the cache."""
MODULES = {"attn": "attn1", "ff": "ff"}
"""Where a block holds a site."""


class Stand:
    """Copies of a model that share its weights, each set up once and timed many times.

    Args:
        model: left as it is.
        compiled: compile every copy, each on its own.
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
        """Opened around the timed steps of each run, such as a profiler."""
        self._patched: dict[tuple[str, ...], DQARDiTWrapper] = {}
        if compiled:
            allow_many_graphs()
        self.plain = self.ready(self.another())
        """The model as it is, compiled where the others are."""

    def num_gates(self, sites: tuple[str, ...]) -> int:
        """Gates of a step."""
        return len(sites) * len(self.model.transformer_blocks)

    def stock(self) -> Variant:
        """The model as it is, as :attr:`plain`."""
        return self.timed("stock", self.plain)

    def uncompiled(self) -> Variant:
        """The model as it is, whatever the others are."""
        return self.timed("uncompiled", self.another())

    def free(self, sites: tuple[str, ...]) -> Variant:
        """The model with sites that return what they were given, at no cost."""
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
        """The model under a controller of its own in each run.

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
        """Values of a controller for those sites."""
        return DQARConfig(**({"sites": sites, "quantization_bits": self.cache_bits} | changes))

    def wrapper(self, sites: tuple[str, ...]) -> DQARDiTWrapper:
        """The copy that is patched for those sites."""
        if sites not in self._patched:
            ready = self.ready(self.another())
            self._patched[sites] = DQARDiTWrapper(ready, DQARConfig(sites=sites))
        return self._patched[sites]

    def time_steps(self, model: Any, num_steps: int) -> float:
        """Seconds of a step, mean over those after the first."""
        timesteps = Schedule(num_steps).timesteps.tolist()

        def step(index: int) -> None:
            self.batch.call(model, timesteps[index])

        return time_steps(step, num_steps, self.device, self.watch())

    def timed(self, name: str, model: Any, num_steps: int = STEPS) -> Variant:
        """A variant that calls a model step by step, with no controller."""
        return Variant(name=name, run=lambda: Ran(seconds=self.time_steps(model, num_steps)))

    def another(self) -> Any:
        """A copy of the model with the same weights and forwards of its own to replace."""
        shared = {id(value): value for value in [*self.model.parameters(), *self.model.buffers()]}
        return copy.deepcopy(self.model, shared)

    def ready(self, model: Any) -> Any:
        """The model as this stand times it: compiled, or not."""
        return torch.compile(model) if self.compiled else model


class Schedule:
    """Stands in for a sampler's scheduler: its timesteps, and alphas for the SNR."""

    def __init__(self, num_steps: int) -> None:
        self.timesteps = torch.linspace(999, 0, num_steps + 1).round()
        self.alphas_cumprod = torch.linspace(0.9999, 0.0001, 1000)


@torch.no_grad()
def time_steps(
    step: Callable[[int], Any], num_steps: int, device: str, watch: AbstractContextManager
) -> float:
    """Seconds of a step, mean over ``num_steps`` after a first one; ``watch`` is around them."""
    step(0)
    clock(device)
    with watch:
        started = clock(device)
        for index in range(1, num_steps + 1):
            step(index)
        return (clock(device) - started) / num_steps


def free_sites(model: Any, sites: tuple[str, ...]) -> None:
    """Let the sites of a model return what they were given."""
    for block in model.transformer_blocks:
        for site in sites:
            module: nn.Module = block if site == "block" else getattr(block, MODULES[site])
            module.forward = _given


def _given(hidden_states: Any, *_: Any, **__: Any) -> Any:
    return hidden_states


def name_of(kind: str, sites: tuple[str, ...], *rest: object) -> str:
    """A variant's name: ``forced attn,ff 0.5``."""
    return " ".join([kind, ",".join(sites), *map(str, rest)])


def allow_many_graphs() -> None:
    """Dynamo keeps 8 graphs of a function and then gives up without failing; the copies on a
    stand share theirs."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.accumulated_recompile_limit = 4096
