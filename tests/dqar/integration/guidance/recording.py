"""Runs of stock pipelines whose calls are told apart, with a controller that only records."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from dqar.control.controller import DQARController
from dqar.gates.rules import NeverReuse
from dqar.integration.guidance.cache_context import CacheContextName
from dqar.integration.run_slot import RunSlot
from dqar.integration.step_counter import Run
from dqar.integration.step_hook import hook_steps
from tests.conformance.pipelines import CASES
from tests.conformance.pipelines.case import SAMPLES


class Recorder(DQARController):
    """A controller that records steps and calls, and decides nothing."""

    is_idle = True

    def __init__(self) -> None:
        super().__init__(gate=NeverReuse())
        self.begin_run()

    def begin_run(self) -> None:
        self.steps: list[int] = []
        self.samples: list[int] = []
        self.lengths: Any = None
        self.calls: list[list[tuple[str, int | None]]] = []
        """Branch and rows of the calls of each step."""
        self.layers: list[range | None] = []

    def open_step(self, step: Any, prompt_length: Any = 16, **given: Any) -> None:
        self.steps.append(step.index)
        self.samples.append(given["num_samples"])
        self.lengths = prompt_length
        self.calls.append([])

    def begin_call(
        self, branch: str, *, num_rows: Any = None, layers: Any = None, is_new: bool = False
    ) -> None:
        self.calls[-1].append((branch, num_rows))
        self.layers.append(layers)

    def finish_step(self) -> None:
        pass


def recorded(name: str, *, samples: int = SAMPLES, **options: Any) -> Recorder:
    """Recorder of one run of a tiny stock pipeline."""
    case = CASES[name]
    return recorded_by(pipe_of(name), case.arguments(samples, case.low) | options)


def pipe_of(name: str) -> Any:
    """A tiny stock pipeline, made from its components."""
    import diffusers

    case = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = getattr(diffusers, case.pipeline)(
            **case.components(), **dict.fromkeys(case.absent), **case.options
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def recorded_by(pipe: Any, given: dict[str, Any]) -> Recorder:
    """Recorder of one call of a pipeline in which every transformer is hooked."""
    controller = Recorder()
    run = Run(pipe.scheduler, controller)
    slot = RunSlot(("attn",), "output")
    models = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
    with ExitStack() as stack, slot.taken_by(run):
        for place, model in enumerate(model for model in models if model is not None):
            context = CacheContextName(model)
            stack.callback(context.restore)
            stack.callback(hook_steps(model, slot, context, range(place, place + 1)).remove)
        pipe(**({"num_inference_steps": 6} | given))
        run.finish()
    return controller
