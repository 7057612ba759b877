"""Search for the fewest computed steps whose measured error is within an error budget."""

from __future__ import annotations

import pytest

from pipeline.methods.base import COARSE, CalibrationBudget
from pipeline.methods.calibration import CalibrationTask
from pipeline.methods.learned_schedule import numbers_of, planned_points
from pipeline.methods.schedule_selection import ScheduleSelection
from tests.pipeline.made_up_answers import PLANS, STEPS, answer_by, comparison, planned_policy

BUDGET = CalibrationBudget(evaluations=STEPS * 400)


@pytest.mark.parametrize("needed", [2, 5, 11, STEPS])
@pytest.mark.parametrize("predicted", [2, 9, STEPS])
def test_a_budget_takes_the_fewest_computations_that_measure_within_it(needed, predicted):
    """Measured errors are within the budget from ``needed`` computed steps on, predicted ones from
    ``predicted`` on: only the measured errors decide."""
    errors = tuple(0.009 if len(plan) >= predicted else 0.5 for plan in PLANS)
    policy = planned_policy(plan_errors=errors)
    ask = answer_by(lambda computed, noise: 0.01 if len(computed) >= needed else 0.02)
    found = ScheduleSelection(policy, ask, BUDGET).within(0.01)
    assert len(found.schedule.computed) == needed


def test_a_budget_that_nothing_meets_computes_the_most():
    ask = answer_by(lambda computed, noise: 0.5)
    found = ScheduleSelection(planned_policy(), ask, BUDGET).within(0.01)
    assert len(found.schedule.computed) == STEPS


def test_few_numbers_are_measured_and_within_the_tuning_budget():
    asked: list[CalibrationTask] = []
    errors = tuple(0.009 if len(plan) >= 10 else 0.5 for plan in PLANS)
    ask = answer_by(lambda computed, noise: 0.0 if len(computed) >= 10 else 1.0, asked)
    ScheduleSelection(planned_policy(plan_errors=errors), ask, BUDGET).within(0.01)
    noise = {one for task in asked for one in task.noise_ids}
    spent = STEPS * (sum(task.num_samples for task in asked) + len(noise))
    assert spent <= STEPS * 400


def test_a_budget_is_one_more_point():
    ask = answer_by(lambda computed, noise: 0.1 / len(computed))
    policy = planned_policy()
    points = planned_points("learned", policy, comparison(0.0126), ask, BUDGET)
    assert len(points) == len(numbers_of(policy.spec, COARSE)) + 1
    assert points[-1].operating_point == "budget=0.0126"
    assert points[-1].schedule is not None
    assert len(points[-1].schedule) == 8, points
