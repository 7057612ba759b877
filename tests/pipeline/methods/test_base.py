"""Operating points of the methods without calibration."""

import pytest

from pipeline.methods.base import COARSE, FINE, GRIDS, CalibrationBudget, SweepGrid
from pipeline.methods.fewer_steps import fewer_steps_points
from pipeline.methods.interval import interval_points, linear_points
from pipeline.methods.registry import method_names


def names(points):
    return [point.operating_point for point in points]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_points_of_a_sweep_have_names_of_their_own(grid):
    sweeps = [
        fewer_steps_points(grid, 50),
        interval_points(grid, 50),
        linear_points(grid, 50),
    ]
    for sweep in sweeps:
        assert len(set(names(sweep))) == len(sweep)


def test_fewer_steps_keep_a_share_and_have_no_gate():
    points = fewer_steps_points(SweepGrid(steps=(0.8, 0.5, 0.001)), 50)
    assert [point.steps for point in points] == [40, 25, 1]
    assert all(point.gate is None for point in points)


def test_every_period_is_a_point_at_full_steps():
    points = interval_points(FINE, 50)
    assert names(points) == [f"period={period}" for period in FINE.periods]
    assert {point.steps for point in points} == {50}


@pytest.mark.parametrize("order", [1, 2])
def test_intervals_forecast_at_the_same_periods(order):
    plain, forecasting = interval_points(FINE, 50), interval_points(FINE, 50, order)
    assert names(plain) == names(forecasting)
    assert {point.forecast_order for point in plain} == {0}
    assert {(point.method, point.forecast_order) for point in forecasting} == {
        (f"interval-forecast{order}", order)
    }
    assert forecasting[0].method in method_names()


def test_linear_sweeps_the_layer_fraction():
    assert names(linear_points(COARSE, 50)) == ["layer_fraction=0.5", "layer_fraction=1"]


def test_a_budget_below_nothing_is_refused():
    with pytest.raises(ValueError, match="evaluations must not be negative"):
        CalibrationBudget(evaluations=-1)
