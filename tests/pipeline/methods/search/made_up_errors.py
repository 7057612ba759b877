"""Measured errors that a function makes up."""

from __future__ import annotations

import torch

from dqar.gates.rules import MaskGate
from dqar.step_schedule import StepSchedule
from pipeline.methods.calibration import CalibrationResult
from pipeline.methods.search.measured_errors import MeasuredErrors


def result_of(task, error_of, steps):
    """The result of a calibration task, by a function of each sample's schedule and noise."""
    assert isinstance(task.gate, MaskGate)
    errors = []
    for column in range(task.num_samples):
        computed = (~task.gate.reuse[:, 0, column]).nonzero()[:, 0].tolist()
        schedule = StepSchedule(
            computed=tuple(computed),
            forecast_order=task.forecast_order[column],
            feedback=task.feedback[column],
        )
        errors.append(error_of(schedule, task.noise_ids[column]))
    return CalibrationResult(
        reuse_ratio=torch.zeros(task.num_samples),
        share=torch.zeros(steps, 1),
        error=torch.tensor(errors),
        entropies=torch.ones(1),
        snrs=[1.0] * steps,
    )


def made_up(error_of, steps, asked=None):
    """Measured errors by a function of a schedule and the index of a noise sample."""

    def ask(tasks):
        if asked is not None:
            asked.extend(tasks)
        return {task.name: result_of(task, error_of, steps) for task in reversed(tasks)}

    return MeasuredErrors(ask, steps)
