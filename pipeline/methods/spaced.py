"""Spacing rule: computed steps at the quantiles of a distribution with one or two parameters.

No trace and no network: a handful of tries on calibration noise choose the powers, the forecast
order and the gain of the error feedback (:mod:`pipeline.methods.search.spacing`). Spacing that is
denser where the model changes faster is old: samplers space their timesteps by a power (Karras et
al. 2022, arXiv 2206.00364, equation 5). Here the rule spaces the computed steps among the sampler's
own steps, and all others reuse.
"""

from __future__ import annotations

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
from pipeline.methods.search.spacing import Spacing, first_spacings, spacings_around

FIRST_SHARE = 0.4
"""Share of a point's trajectories for the first tries."""
SCALES = (1.0, 0.5)
"""Factors on the changes of the tries around the best so far, one round each, which share the other
trajectories equally."""


class SpacedSteps(Method):
    """The best of some spacing rules for each number of computed steps, by measurement."""

    name = "spaced"

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        measured = MeasuredErrors(session.calibrate, session.steps)
        numbers = numbers_of_grid(session.comparison.grid, session.steps)
        self._points, earlier = [], []
        for index, number in enumerate(numbers):
            left = len(numbers) - index
            trajectories = shared_trajectories(budget, measured, left, ROUNDS[-1])
            best = best_spacing(number, measured, trajectories, earlier)
            earlier = [best]
            schedule = best.schedule(number, session.steps)
            self._points.append(point_of(self.name, schedule, session.steps, "spaced"))
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        return self._points


def best_spacing(
    number: int, measured: MeasuredErrors, trajectories: int, earlier: list[Spacing]
) -> Spacing:
    """Return the spacing rule of the least measured error for a number of computed steps.

    Args:
        measured: errors of schedules, which the tries add to.
        trajectories: most trajectories to spend.
        earlier: rules that were the best for other numbers of computed steps, tried first.
    """
    before = measured.spent
    best = _best([*earlier, *first_spacings()], number, measured, int(FIRST_SHARE * trajectories))
    for index, scale in enumerate(SCALES):
        left = trajectories - (measured.spent - before) // measured.steps
        around = spacings_around(best, scale)
        best = _best(around, number, measured, left // (len(SCALES) - index))
    return best


def _best(
    rules: list[Spacing], number: int, measured: MeasuredErrors, trajectories: int
) -> Spacing:
    by_schedule = {rule.schedule(number, measured.steps): rule for rule in reversed(rules)}
    schedules = [rule.schedule(number, measured.steps) for rule in rules]
    return by_schedule[halve(schedules, measured, trajectories)[0]]
