"""Numbers of computed steps of a sweep, and each one's share of the tuning budget."""

from __future__ import annotations

from dqar.gates.rules import MaskGate
from dqar.step_schedule import StepSchedule
from pipeline.methods.base import CalibrationBudget, OperatingPoint, ScheduleSource, SweepGrid
from pipeline.methods.search.measured_errors import MeasuredErrors


def numbers_of_grid(grid: SweepGrid, steps: int) -> list[int]:
    """Return the numbers of computed steps, at least two, for the reuse ratios of a grid."""
    numbers = {round((1.0 - ratio) * steps) for ratio in grid.reuse_ratios}
    return sorted(number for number in numbers if 2 <= number <= steps)


def shared_trajectories(
    budget: CalibrationBudget, measured: MeasuredErrors, points_left: int, samples: int
) -> int:
    """Return the trajectories that one operating point may spend: an equal share of what is left.

    Args:
        budget: tuning budget of the method, for all of its points together.
        measured: errors measured so far.
        points_left: operating points that are still to be tuned, this one included.
        samples: noise samples whose reference samples are put aside from the budget, unless they
            have been sampled.
    """
    if budget.evaluations is None:
        return UNBOUNDED_TRAJECTORIES
    references = measured.references_to_come(samples)
    left = (budget.evaluations - measured.spent) // measured.steps - references
    return max(0, left // points_left)


UNBOUNDED_TRAJECTORIES = 400
"""Trajectories of a point where the evaluation sets no budget."""


def point_of(
    method: str, schedule: StepSchedule, steps: int, source: ScheduleSource
) -> OperatingPoint:
    """Return the operating point of a schedule, whose plan the report then offers."""
    name = (
        f"computed={len(schedule)},order={schedule.forecast_order},feedback={schedule.feedback:g}"
    )
    return OperatingPoint(
        method=method,
        operating_point=name,
        steps=steps,
        gate=MaskGate(schedule.mask(steps)[:, None, None]),
        forecast_order=schedule.forecast_order,
        feedback=schedule.feedback,
        schedule=schedule,
        schedule_source=source,
    )
