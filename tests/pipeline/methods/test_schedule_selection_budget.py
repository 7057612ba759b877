"""Search for the fewest computed steps whose measured error is within an error budget."""

from __future__ import annotations

import pytest

from dqar.gates.planned import ScheduleGate
from pipeline.methods.base import COARSE
from pipeline.methods.calibration import CalibrationTask
from pipeline.methods.learned_schedule import numbers_of, planned_points
from pipeline.methods.schedule_selection import NEIGHBOURS, within_budget
from tests.pipeline.made_up_answers import (
    CANDIDATES,
    NOISES,
    PLANS,
    STEPS,
    answer_by,
    comparison,
    planned_policy,
)


@pytest.mark.parametrize("needed", [2, 5, 11, STEPS])
@pytest.mark.parametrize("predicted", [2, 9, STEPS])
def test_a_budget_takes_the_fewest_computations_that_measure_within_it(needed, predicted):
    """Measured errors are within the budget from ``needed`` computed steps on, predicted ones from
    ``predicted`` on: only the measured errors decide."""
    errors = tuple(0.009 if len(plan) >= predicted else 0.5 for plan in PLANS)
    spec = planned_policy(plan_errors=errors).spec
    ask = answer_by(lambda computed, noise: 0.01 if len(computed) >= needed else 0.02)
    assert len(within_budget(spec, 0.01, ask).schedule.computed) == needed


def test_a_budget_that_nothing_meets_computes_the_most():
    judged = within_budget(planned_policy().spec, 0.01, answer_by(lambda computed, noise: 0.5))
    assert len(judged.schedule.computed) == STEPS


def test_only_plans_around_the_predicted_one_are_judged():
    asked: list[CalibrationTask] = []
    errors = tuple(0.009 if len(plan) >= 10 else 0.5 for plan in PLANS)
    ask = answer_by(lambda computed, noise: 0.0 if len(computed) >= 10 else 1.0, asked)
    within_budget(planned_policy(plan_errors=errors).spec, 0.01, ask)
    assert sum(probe.num_samples for probe in asked) == NEIGHBOURS * CANDIDATES * NOISES


def test_a_budget_is_one_more_point():
    ask = answer_by(lambda computed, noise: 0.1 / len(computed))
    policy = planned_policy()
    points = planned_points("learned", policy, comparison(0.0126), ask)
    assert len(points) == len(numbers_of(policy.spec, COARSE)) + 1
    assert points[-1].operating_point == "budget=0.0126"
    chosen = policy.spec.schedule_of(8)
    assert (points[-1].schedule, points[-1].schedule_source) == (chosen, "policy")
    assert chosen.setting == (2, 0.0)
    assert isinstance(points[-1].gate, ScheduleGate)
    assert points[-1].gate.computed == set(chosen.computed)
