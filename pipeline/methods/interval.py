"""Fixed schedules without calibration: a regular interval, and the DQAR paper's LINEAR schedule.

A regular interval computes all sites at every k-th step. Between, PAB (Zhao et al. 2024, arXiv
2408.12588) and FORA (Selvaraju et al. 2024, arXiv 2407.01425) show the cached value; TaylorSeer
(Liu et al. 2025, arXiv 2503.06923) shows a forecast.
"""

from __future__ import annotations

from dqar.gates.rules import Interval, Scheduled
from dqar.layer_schedule import LayerSchedule
from pipeline.methods.base import PAPER_WARMUP, Method, OperatingPoint, Session, SweepGrid


class IntervalReuse(Method):
    """A regular interval: all sites compute at every k-th step and reuse between (PAB, FORA)."""

    name = "interval"

    def points(self, session: Session) -> list[OperatingPoint]:
        return interval_points(session.comparison.grid, session.steps)


class IntervalForecast1(Method):
    """A regular interval with first-order forecasts between (TaylorSeer)."""

    name = "interval-forecast1"

    def points(self, session: Session) -> list[OperatingPoint]:
        return interval_points(session.comparison.grid, session.steps, forecast_order=1)


class IntervalForecast2(Method):
    """A regular interval with second-order forecasts between (TaylorSeer)."""

    name = "interval-forecast2"

    def points(self, session: Session) -> list[OperatingPoint]:
        return interval_points(session.comparison.grid, session.steps, forecast_order=2)


class LinearSchedule(Method):
    """LINEAR layer schedule of the DQAR paper, which never refreshes a cached value."""

    name = "linear"
    role = "context"

    def points(self, session: Session) -> list[OperatingPoint]:
        return linear_points(session.comparison.grid, session.steps)


def interval_points(grid: SweepGrid, steps: int, forecast_order: int = 0) -> list[OperatingPoint]:
    """Return an operating point for each period of the grid.

    Args:
        forecast_order: order of the forecasts between computed steps; 0 shows the cached value.
    """
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
    """Return an operating point of the LINEAR schedule for each layer fraction of the grid."""
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
