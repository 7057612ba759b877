"""Recordings of the stock (unpatched) model: inputs and outputs of its transformer by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.methods.task import ModelSampler


@dataclass(frozen=True, kw_only=True, slots=True)
class StockStep:
    """Inputs and output of the transformer at one step of some runs of the stock model.

    The guidance branches are stacked along the rows.
    """

    latents: Float[Tensor, "r c h w"]
    timesteps: Tensor
    labels: Tensor
    output: Float[Tensor, "r k h w"]

    def of_sample(self, sample: int, num_samples: int) -> StockStep:
        """Return the rows of one sample, one for each guidance branch."""
        return self._with(lambda rows: rows[sample::num_samples])

    def repeated(self, times: int) -> StockStep:
        """Return the step with each row repeated ``times`` times."""
        return self._with(lambda rows: rows.repeat_interleave(times, dim=0))

    def _with(self, change: Callable[[Tensor], Tensor]) -> StockStep:
        return StockStep(
            latents=change(self.latents),
            timesteps=change(self.timesteps),
            labels=change(self.labels),
            output=change(self.output),
        )


def by_sample(steps: list[StockStep], num_samples: int) -> list[list[StockStep]]:
    """Split runs that were sampled in one batch into one list of steps for each sample."""
    return [[step.of_sample(one, num_samples) for step in steps] for one in range(num_samples)]


@contextmanager
def record_calls(transformer: nn.Module) -> Iterator[list[StockStep]]:
    """Record the inputs and outputs of a transformer while a sampler calls it."""
    steps: list[StockStep] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        step = StockStep(
            latents=args[0],
            timesteps=kwargs["timestep"],
            labels=kwargs["class_labels"],
            output=output.sample,
        )
        steps.append(step)

    handle = transformer.register_forward_hook(note, with_kwargs=True)
    try:
        yield steps
    finally:
        handle.remove()


def record_stock_runs(sampler: ModelSampler, ids: range) -> list[list[StockStep]]:
    """Run the stock model on calibration noise samples; return a list of steps for each sample."""
    noise, labels = sampler.draw("calibrate", list(ids))
    with record_calls(sampler.model.transformer) as steps:
        sampler.sample(noise, labels, sampler.config.steps, None)
    return by_sample(steps, len(ids))
