"""Fewer sampling steps without reuse: the same sampler, or DPM-Solver++ of second order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dqar.integration import DQARDPMSolverSampler
from pipeline.errors import InputError
from pipeline.methods.base import OperatingPoint, SweepGrid
from pipeline.models.loading import saved_scheduler
from pipeline.models.model_info import ModelInfo


def fewer_steps_points(grid: SweepGrid, steps: int) -> list[OperatingPoint]:
    """The same sampler with fewer steps: the baseline that every reuse must beat."""
    kept = [max(1, round(share * steps)) for share in grid.steps]
    return [
        OperatingPoint(method="fewer-steps", operating_point=f"steps={few}", steps=few)
        for few in kept
    ]


def fewer_solver_steps_points(grid: SweepGrid, steps: int) -> list[OperatingPoint]:
    """A better solver with fewer steps: DPM-Solver++ of second order, from the same noise.

    Its latents differ from the twin's also by the solver's own path: with as many steps as the
    twin it would not end where the twin ends, since the twin's steps err too.
    """
    return [
        replace(point, method="fewer-steps-dpmsolver", sampler="dpm")
        for point in fewer_steps_points(grid, steps)
    ]


METHOD = "fewer-steps-dpmsolver"
PREDICTIONS = ("epsilon", "sample", "v_prediction")
"""What both DDIM and DPM-Solver++ can read a model as predicting."""


def refuse_no_solver(info: ModelInfo, methods: tuple[str, ...]) -> None:
    """The solver must know the model's noise schedule, and what the model predicts. Sigmas that a
    model learned do no harm: samplers leave them out.

    Raises:
        InputError: if the method is among those wanted, and the model's scheduler is another kind.
    """
    if METHOD not in methods:
        return
    scheduler = saved_scheduler(info)
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS or not _can_lend(scheduler):
        raise InputError(
            f"--methods {METHOD} must come with a model whose noise schedule DPM-Solver++ can take "
            f"over. Got a {type(scheduler).__name__} that predicts {prediction!r:.40} in "
            f"{info.name}. Leave {METHOD} out."
        )


def _can_lend(scheduler: Any) -> bool:
    try:
        DQARDPMSolverSampler(None, scheduler)
    # Of some schedules of betas the solver says that it has not implemented them.
    except (ValueError, NotImplementedError):
        return False
    return True
