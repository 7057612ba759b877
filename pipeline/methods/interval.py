"""Fixed schedules that need no calibration: a regular interval (PAB, FORA), its forecasts
(TaylorSeer) and the paper's LINEAR layer schedule."""

from __future__ import annotations

from dqar.gates.rules import Interval, Scheduled
from dqar.layer_schedule import LayerSchedule
from pipeline.methods.base import PAPER_WARMUP, Method, OperatingPoint, Session, SweepGrid


class IntervalReuse(Method):
    """A regular interval: all sites compute every k-th step (PAB, FORA)."""

    name = "interval"

    def points(self, session: Session) -> list[OperatingPoint]:
        return interval_points(session.comparison.grid, session.steps)


class IntervalForecast1(Method):
    """A regular interval with forecasts of first order between (TaylorSeer)."""

    name = "interval-forecast1"

    def points(self, session: Session) -> list[OperatingPoint]:
        return interval_points(session.comparison.grid, session.steps, forecast_order=1)


class IntervalForecast2(Method):
    """A regular interval with forecasts of second order between (TaylorSeer)."""

    name = "interval-forecast2"

    def points(self, session: Session) -> list[OperatingPoint]:
        return interval_points(session.comparison.grid, session.steps, forecast_order=2)


class LinearSchedule(Method):
    """The LINEAR layer schedule of the DQAR paper, which never refreshes."""

    name = "linear"
    role = "context"

    def points(self, session: Session) -> list[OperatingPoint]:
        return linear_points(session.comparison.grid, session.steps)


def interval_points(grid: SweepGrid, steps: int, forecast_order: int = 0) -> list[OperatingPoint]:
    """Compute all sites every k-th step (PAB, FORA), and forecast between (TaylorSeer)."""
    return [
        OperatingPoint(
            method=f"interval-forecast{forecast_order}" if forecast_order else "interval",
            operating_point=f"period={period}",
            steps=steps,
            gate=Interval(period),
            forecast_order=forecast_order,
        )
        for period in grid.periods
    ]


def linear_points(grid: SweepGrid, steps: int) -> list[OperatingPoint]:
    """The LINEAR layer schedule of the DQAR paper at each layer fraction of the grid."""
    schedules = [
        LayerSchedule(schedule_type="linear", warmup_fraction=PAPER_WARMUP, layer_fraction=fraction)
        for fraction in grid.layer_fractions
    ]
    return [
        OperatingPoint(
            method="linear",
            operating_point=f"layer_fraction={schedule.layer_fraction:g}",
            steps=steps,
            gate=Scheduled(schedule),
        )
        for schedule in schedules
    ]
