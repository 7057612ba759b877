"""Measured errors: each pair of schedule and noise sample once, in bounded tasks, counted."""

from __future__ import annotations

import math

import pytest
import torch

from dqar.step_schedule import StepSchedule
from pipeline.methods.search.halving import (
    ROUNDS,
    affordable,
    halve,
    numbers_compared,
    trajectories_of,
)
from pipeline.methods.search.measured_errors import TASK_SAMPLES
from pipeline.methods.search.objective import log_errors, objective, paired_difference
from tests.pipeline.methods.search.made_up_errors import made_up

STEPS = 10
SCHEDULES = [StepSchedule(computed=(0, step), forecast_order=1) for step in range(1, STEPS)]


def by_last(schedule, noise):
    return 0.01 * schedule.computed[-1] + 0.001 * noise


def test_errors_are_measured_once_and_counted_with_their_references():
    asked = []
    measured = made_up(by_last, STEPS, asked)
    assert measured.price(SCHEDULES[:2], range(3)) == STEPS * (6 + 3)
    found = measured.errors(SCHEDULES[:2], range(3))
    expected = [[by_last(one, noise) for noise in range(3)] for one in SCHEDULES[:2]]
    assert found.tolist() == [pytest.approx(row) for row in expected]
    assert measured.spent == STEPS * (6 + 3)
    again = measured.errors([SCHEDULES[1], SCHEDULES[0], SCHEDULES[1]], range(4))
    assert again[0].tolist() == again[2].tolist()
    assert measured.spent == STEPS * (8 + 4)
    assert sum(task.num_samples for task in asked) == 8
    assert measured.mean_error(SCHEDULES[0]) == pytest.approx(0.0115)
    assert measured.mean_error(SCHEDULES[5]) == math.inf
    assert measured.references_to_come(6) == 2


def test_tasks_are_bounded_and_have_names_of_their_own():
    asked = []
    measured = made_up(by_last, STEPS, asked)
    measured.errors(SCHEDULES, range(30))
    assert [task.num_samples for task in asked] == [TASK_SAMPLES, TASK_SAMPLES, 9 * 30 - 192]
    assert len({task.name for task in asked}) == 3


def test_a_sample_that_diverged_is_infinitely_wrong_and_counts_a_thousand():
    measured = made_up(lambda schedule, noise: math.nan if noise else 0.1, STEPS)
    found = measured.errors(SCHEDULES[:1], range(2))
    assert found.tolist() == [[pytest.approx(0.1), math.inf]]
    assert log_errors(found)[0, 1] == pytest.approx(math.log(1000))


def test_one_large_error_does_not_decide():
    often, rarely = torch.tensor([0.02] * 8), torch.tensor([0.01] * 7 + [0.2])
    scores = objective(torch.stack([often, rarely]))
    assert often.mean() < rarely.mean()
    assert scores[1] < scores[0]


def test_paired_differences_cancel_what_a_noise_sample_adds():
    hardness = torch.tensor([1.0, 5.0, 20.0, 0.1])
    mean, error = paired_difference(0.02 * hardness, 0.01 * hardness)
    assert mean == pytest.approx(math.log(2))
    assert error == pytest.approx(0.0, abs=1e-6)
    assert paired_difference(hardness[:1], hardness[:1])[1] == math.inf


def test_halving_measures_more_samples_of_fewer_schedules():
    measured = made_up(by_last, STEPS)
    ranked = halve(SCHEDULES, measured, trajectories_of(len(SCHEDULES)))
    assert ranked[0] == SCHEDULES[0]
    assert numbers_compared(len(SCHEDULES)) == [9, 3, 1, 1]
    assert measured.spent == STEPS * (trajectories_of(9) + ROUNDS[-1])


@pytest.mark.parametrize("trajectories", [0, 31, 32, 200, 1000])
def test_halving_keeps_within_its_trajectories(trajectories):
    measured = made_up(by_last, STEPS)
    ranked = halve(SCHEDULES[::-1], measured, trajectories)
    count = affordable(trajectories, len(SCHEDULES))
    assert trajectories_of(count) <= trajectories
    assert measured.spent <= STEPS * (trajectories + ROUNDS[-1])
    # Beyond what can be afforded the first candidates are taken.
    assert ranked[0] in SCHEDULES[::-1][: max(1, count)]


def test_a_huge_budget_affords_no_more_than_there_are():
    assert affordable(10**12, len(SCHEDULES)) == len(SCHEDULES)
