"""A sampler that calls a patched transformer, without pipelines, schedulers or guidance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.base import Gate
from dqar.integration.run_slot import RunSlot
from dqar.integration.sites import attach, detach, gate_table
from dqar.integration.step_counter import Run
from tests.dqar.integration.engine.models import Case, randn

STEPS = 5


def call(case: Case, model: nn.Module, latents: Tensor, step: int, chosen: list[int]) -> Tensor:
    """Call a transformer for some of three samples; return what it predicts."""
    others = {
        name: value[chosen] if isinstance(value, Tensor) and len(value) == 3 else value
        for name, value in case.others(3).items()
    }
    timestep = torch.full((len(latents),), 900.0 - 150.0 * step)
    return model(hidden_states=latents, timestep=case.timestep(timestep), **others).sample


def sample(case: Case, model: nn.Module, chosen: list[int], begin: Any = None) -> Tensor:
    """Sample, with a function that is called before each step."""
    latents = randn(3, *case.latents, seed=7)[chosen]
    for step in range(STEPS):
        if begin is not None:
            begin(step)
        with torch.no_grad():
            latents = latents - 0.3 * call(case, model, latents, step, chosen)
    return latents


class DirectRun(Run):
    """A run whose steps the driver opens."""

    def __init__(self, controller: DQARController, num_rows: int) -> None:
        self.controller = controller
        self.num_rows = num_rows


class Sampled:
    """Latents of a run under a controller, and the controller.

    Args:
        called: the model's compiled form, which is called in its place.
    """

    def __init__(
        self,
        case: Case,
        model: nn.Module,
        sites: tuple[str, ...],
        gate: Gate | None,
        chosen: list[int],
        **options: Any,
    ) -> None:
        config = options.pop("config", self.config(sites))
        called = options.pop("called", model)
        self.controller = DQARController(config, gate=gate, **options)
        slot = RunSlot(sites, config.cached)
        patches = attach(model, slot)
        self.controller.bind(gate_table(model, sites), 2)
        run = DirectRun(self.controller, len(chosen))

        def begin(step: int) -> None:
            self.controller.begin_step(step, STEPS, num_samples=len(chosen))

        try:
            with slot.taken_by(run):
                self.latents = sample(case, called, chosen, begin)
                self.controller.finish_step()
        finally:
            detach(patches)

    @staticmethod
    def config(sites: tuple[str, ...], **changes: Any) -> DQARConfig:
        """A configuration with an unquantised cache."""
        values: dict[str, Any] = {"sites": sites, "quantization_bits": 32}
        return DQARConfig(**(values | changes))
