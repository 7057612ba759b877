"""Schedules from the final error of one cached stretch at a time, by a minimax path.

After LeMiCa's public description (arXiv 2511.00090): the steps are the nodes of a graph, an edge
from step i to step j is the stretch that reuses between them, and its weight is the error of the
final latent where this stretch alone is reused. The schedule with K computed steps is the path of K
edges whose sorted weights are lexicographically least: its worst stretch is as good as it can be,
then its second worst, and so on. It differs from the paper: the error is the final latent's
relative L2 (mean log over noise samples); edges are measured with the cached value shown, at some
lengths and starts, and interpolated between; and the schedule is then shown with the forecast order
and the gain of the error feedback that err least on calibration noise, which the paper does not
have.
"""

from __future__ import annotations

from itertools import product

from dqar.step_schedule import ReuseSetting, StepSchedule
from pipeline.methods.base import (
    CalibrationBudget,
    CalibrationCost,
    Method,
    OperatingPoint,
    Session,
)
from pipeline.methods.search.frontier import numbers_of_grid, point_of, shared_trajectories
from pipeline.methods.search.halving import ROUNDS, halve
from pipeline.methods.search.measured_errors import MeasuredErrors
from pipeline.methods.search.stretches import minimax_path, stretch_weights

EDGE_SHARE = 0.6
"""Share of the tuning budget for the stretches; the rest chooses forecast orders and gains."""
UNBOUNDED_EDGES = 2000
"""Trajectories for the stretches where the evaluation sets no budget."""
SETTINGS: tuple[ReuseSetting, ...] = tuple(
    [(0, 0.0), (0, 0.4), (0, 0.8), *product((1, 2), (0.3, 0.5, 0.15, 0.0))]
)
"""Forecast orders and gains that each schedule is tried with."""


class OneStretch(Method):
    """Minimax path over stretches, each weighed by its own final error."""

    name = "one-stretch"

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        measured = MeasuredErrors(session.calibrate, session.steps)
        allowed = budget.trajectories(session.steps, ROUNDS[-1])
        weights = stretch_weights(
            measured, UNBOUNDED_EDGES if allowed is None else int(EDGE_SHARE * allowed)
        )
        numbers = numbers_of_grid(session.comparison.grid, session.steps)
        self._points = []
        for index, number in enumerate(numbers):
            left = len(numbers) - index
            trajectories = shared_trajectories(budget, measured, left, ROUNDS[-1])
            computed = minimax_path(weights, number)
            schedules = [
                StepSchedule(computed=computed, forecast_order=order, feedback=gain)
                for order, gain in SETTINGS
            ]
            best = halve(schedules, measured, trajectories)[0]
            self._points.append(point_of(self.name, best, session.steps, "stretches"))
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        return self._points
