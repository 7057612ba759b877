"""Threshold gates: their operating points, and the choice of settings by calibration."""

import pytest
import torch

from pipeline.methods.base import COARSE, GRIDS
from pipeline.methods.calibration import CalibrationResult
from pipeline.methods.threshold import (
    TUNING_BATCH,
    TUNING_NOISES,
    ThresholdSettings,
    observing_task,
    threshold_points,
    threshold_settings,
    tuned_points,
    tuned_sweep,
)

SNRS = [0.01 * 1.3**index for index in range(50)]
ENTROPIES = torch.linspace(0.5, 2.7, 101)


def setting(gap):
    return ThresholdSettings(low=0.1, high=10.0, max_gap=gap, tau=2.0)


def names(points):
    return [point.operating_point for point in points]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_points_of_the_sweep_have_names_of_their_own(grid):
    points = threshold_points(grid, 50, ENTROPIES)
    assert len(set(names(points))) == len(points)


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


def test_settings_are_judged_on_the_same_noises():
    asked = []

    def ask(probes):
        asked.extend(probes)
        return {probe.name: answered(probe) for probe in probes}

    def answered(probe):
        error = torch.rand(probe.num_samples)
        return CalibrationResult(
            reuse_ratio=torch.full((probe.num_samples,), 0.4),
            share=torch.zeros(50, 1),
            error=error,
            entropies=ENTROPIES,
            snrs=SNRS,
        )

    observed = answered(observing_task())
    points = tuned_sweep(COARSE, 50, observed, ask)
    options = list(threshold_settings(SNRS, ENTROPIES))
    assert sum(probe.num_samples for probe in asked) == TUNING_NOISES * len(options)
    assert all(probe.num_samples <= TUNING_BATCH for probe in asked)
    for probe in asked:
        assert probe.noise_ids[: 2 * TUNING_NOISES] == tuple(range(TUNING_NOISES)) * 2
    assert len(points) == 1
