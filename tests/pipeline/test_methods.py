"""Sweeps: what their points are, and how calibration chooses among settings."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqar.policy import PolicySpec, ReusePolicy
from pipeline.methods import (
    COARSE,
    FINE,
    GRIDS,
    METHODS,
    Grid,
    ThresholdSettings,
    fewer_steps_points,
    interval_points,
    learned_points,
    linear_points,
    probe_thresholds,
    static_point,
    threshold_points,
    threshold_settings,
    thresholds_for,
    tuned_points,
)

SNRS = [0.01 * 1.3**index for index in range(50)]
ENTROPIES = torch.linspace(0.5, 2.7, 101)


def setting(gap):
    return ThresholdSettings(low=0.1, high=10.0, max_gap=gap, tau=2.0)


def names(points):
    return [point.operating_point for point in points]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_points_of_a_sweep_have_names_of_their_own(grid):
    sweeps = [
        fewer_steps_points(grid, 50),
        interval_points(grid, 50),
        linear_points(grid, 50),
        threshold_points(grid, 50, ENTROPIES),
    ]
    for sweep in sweeps:
        assert len(set(names(sweep))) == len(sweep)


def test_fewer_steps_keep_a_share_and_have_no_gate():
    points = fewer_steps_points(Grid(steps=(0.8, 0.5, 0.001)), 50)
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
    assert forecasting[0].method in METHODS


def test_linear_sweeps_the_layer_fraction():
    assert names(linear_points(COARSE, 50)) == ["layer_fraction=0.5", "layer_fraction=1"]


def test_threshold_sweeps_tau_within_both_seed_windows():
    points = threshold_points(COARSE, 50, ENTROPIES)
    assert names(points) == [
        "tau=q0.5,snr=[0.1,10]",
        "tau=q1,snr=[0.1,10]",
        "tau=q0.5,snr=[0.1,100]",
        "tau=q1,snr=[0.1,100]",
    ]


def test_tuned_threshold_may_choose_window_gap_and_tau():
    found = list(threshold_settings(SNRS, ENTROPIES))
    assert len(found) == len(set(map(repr, found)))
    for name in ("low", "high", "max_gap", "tau"):
        assert len({getattr(one, name) for one in found}) > 1
    assert max(one.tau for one in found) == float("inf")
    assert max(one.high for one in found) > SNRS[-1]
    assert all(one.low < one.high for one in found)


def test_probes_lie_around_the_policys_own_threshold():
    policy = ReusePolicy()
    probes = probe_thresholds(policy)
    torch.testing.assert_close(probes.mean(), torch.tensor(policy.spec.log_threshold))
    assert (probes.diff() > 0).all()


def test_thresholds_reach_their_ratios_on_a_smooth_curve():
    probed = torch.linspace(-9, 9, 64)
    achieved = torch.sigmoid(probed)
    ratios = (0.2, 0.5, 0.8)
    found = thresholds_for(ratios, probed, achieved)
    torch.testing.assert_close(
        torch.tensor(found).sigmoid(), torch.tensor(ratios), atol=5e-3, rtol=0
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1, width=32), min_size=64, max_size=64))
def test_thresholds_are_monotone_whatever_the_probes_saw(achieved):
    found = thresholds_for(FINE.reuse_ratios, torch.linspace(-9, 9, 64), torch.tensor(achieved))
    assert found == sorted(found)
    assert -9 <= found[0] <= found[-1] <= 9


def test_tuned_points_take_the_least_error_near_each_ratio():
    options = [setting(1), setting(2), setting(3), setting(4)]
    achieved = torch.tensor([0.30, 0.31, 0.50, 0.70])
    error = torch.tensor([0.02, 0.01, 0.03, 0.04])
    points = tuned_points((0.3, 0.5, 0.9), 50, options, achieved, error)
    assert len(points) == 2
    assert "gap=2" in points[0].operating_point
    assert "gap=3" in points[1].operating_point


def test_a_setting_that_serves_two_ratios_is_one_point():
    points = tuned_points((0.30, 0.31), 50, [setting(1)], torch.tensor([0.305]), torch.ones(1))
    assert len(points) == 1


def test_learned_points_are_named_by_threshold():
    points = learned_points("learned-x", ReusePolicy(), 50, [-1.0, 2.5])
    assert names(points) == ["log_threshold=-1.000", "log_threshold=2.500"]
    assert {point.method for point in points} == {"learned-x"}


def test_a_policys_points_forecast_as_it_was_trained():
    policy = ReusePolicy(PolicySpec(forecast_order=2))
    assert [point.forecast_order for point in learned_points("learned", policy, 50, [0.0])] == [2]
    assert static_point("learned", 4, torch.zeros(4, 8), 0.5, 2).forecast_order == 2


def test_a_static_point_takes_its_policys_name():
    point = static_point("learned-full", 4, torch.zeros(4, 8), 0.5)
    assert (point.method, point.steps) == ("static-full", 4)
