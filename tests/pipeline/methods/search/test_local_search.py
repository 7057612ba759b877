"""Local search: its surrogate, the model's predictions, and what the search finds."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from dqar.policy.planner import plan_steps, step_damage
from dqar.step_schedule import StepSchedule
from pipeline.methods.search import moves
from pipeline.methods.search.local_search import BLOCK, TRIED, LocalSearch
from pipeline.methods.search.predicted_error import PredictedError
from pipeline.methods.search.surrogate import NOISE, SPREAD, Surrogate
from tests.pipeline.made_up_answers import planned_policy
from tests.pipeline.methods.search.made_up_errors import made_up

STEPS, SAMPLES = 20, 32
START = StepSchedule(computed=(0, 4, 8, 12, 16), forecast_order=1, feedback=0.5)
NEAR = StepSchedule(computed=(0, 5, 8, 12, 16), forecast_order=1, feedback=0.5)
FAR = StepSchedule(computed=(0, 1, 2, 3, 19), forecast_order=2, feedback=0.0)


def flat(schedule):
    return 0.0


def test_measured_schedules_inform_about_those_that_are_alike():
    surrogate = Surrogate(START, STEPS, flat)
    surrogate.observe(NEAR, -0.4, samples=1000)
    nearer = StepSchedule(computed=(0, 6, 8, 12, 16), forecast_order=1, feedback=0.5)
    belief = surrogate.believe([START, NEAR, nearer, FAR])
    assert belief.mean[0] == pytest.approx(0.0, abs=0.01)
    assert belief.mean[1] == pytest.approx(-0.4, abs=0.05)
    assert -0.4 < belief.mean[2] < -0.1
    assert belief.mean[3] == pytest.approx(0.0, abs=0.05)
    assert belief.std[3] == pytest.approx(SPREAD, rel=0.05)
    assert belief.std[1] < belief.std[2] < belief.std[3]
    gain = belief.expected_improvement(-0.3)
    assert (gain >= 0).all()
    assert gain[2] > gain[3]


def test_few_samples_convince_less_than_many():
    few, many = (Surrogate(START, STEPS, flat) for _ in range(2))
    few.observe(NEAR, -0.4, samples=2)
    many.observe(NEAR, -0.4, samples=2)
    many.observe(NEAR, -0.4, samples=200)
    assert many.believe([NEAR]).mean[0] < few.believe([NEAR]).mean[0] < 0
    assert few.believe([NEAR]).std[0] < NOISE


def test_where_nothing_is_measured_the_prediction_counts():
    surrogate = Surrogate(START, STEPS, lambda one: 0.1 * one.computed[1])
    belief = surrogate.believe([FAR])
    assert belief.mean[0] == pytest.approx(-0.3, abs=0.02)


def test_predictions_are_the_planner_s():
    policy, snrs = planned_policy(max_gap=5), np.geomspace(1e-3, 1e3, STEPS).tolist()
    predicted = PredictedError(policy, snrs)
    for plan in plan_steps(policy, snrs, 1, 5, feedback=0.5)[:-1:4]:
        assert predicted(plan.schedule) == pytest.approx(np.log(plan.error), abs=1e-4)


def test_gaps_beyond_the_largest_count_as_the_largest():
    policy, snrs = planned_policy(max_gap=3), [1.0] * STEPS
    predicted = PredictedError(policy, snrs)(StepSchedule(computed=(0,)))
    table = step_damage(policy, snrs, 0, 3)
    total = table[torch.arange(1, STEPS), torch.arange(STEPS - 1).clamp(max=2), 0, 0].sum()
    assert predicted == pytest.approx(0.5 * float(total.log()), abs=1e-5)


WANTED = (0, 6, 11, 15, 18)


def distance(schedule, noise):
    moved = np.abs(np.subtract(schedule.computed, WANTED)).sum()
    return 0.01 * np.exp(0.1 * moved) * (1 + 0.3 * (noise % 5))


def test_the_search_finds_a_better_schedule_within_its_trajectories():
    measured = made_up(distance, STEPS)
    measured.errors([START], range(SAMPLES))
    search = LocalSearch(START, measured, SAMPLES, flat, random.Random(0))
    before = measured.spent
    found = search.run(500)
    assert measured.spent - before <= STEPS * 500
    assert distance(found, 0) < distance(START, 0)


def test_a_search_in_noise_stays_where_it_is_or_has_seen_enough_samples():
    draws = np.random.default_rng(1)
    measured = made_up(lambda schedule, noise: 0.01 * float(np.exp(draws.normal())), STEPS)
    measured.errors([START], range(SAMPLES))
    search = LocalSearch(START, measured, SAMPLES, flat, random.Random(0))
    search.know([NEAR], range(4))
    found = search.run(4 * BLOCK * (TRIED + 1))
    assert measured.errors([found], range(BLOCK)).shape == (1, BLOCK)
    assert len(found) == len(START)


def test_without_trajectories_the_start_is_returned():
    measured = made_up(distance, STEPS)
    measured.errors([START], range(SAMPLES))
    search = LocalSearch(START, measured, SAMPLES, flat, random.Random(0))
    assert search.run(10) == START


def test_a_schedule_of_halving_is_confirmed_on_all_of_its_blocks():
    better = {START: 0.02, NEAR: 0.018}
    measured = made_up(lambda schedule, noise: better.get(schedule, 0.021), STEPS)
    measured.errors([START], range(SAMPLES))
    search = LocalSearch(START, measured, SAMPLES, flat, random.Random(0))
    search.know([NEAR], range(4))
    assert search.run(10 * BLOCK * (TRIED + 1)) == NEAR
    assert measured.price([NEAR], range(SAMPLES)) == 0


def test_a_search_ends_where_all_moves_are_known(monkeypatch):
    monkeypatch.setattr(moves, "OTHER_SETTING", 0.0)
    few, start = 4, StepSchedule(computed=(0, 2), forecast_order=1, feedback=0.5)
    measured = made_up(lambda schedule, noise: 0.1 / schedule.computed[1], few)
    measured.errors([start], range(SAMPLES))
    found = LocalSearch(start, measured, SAMPLES, flat, random.Random(0)).run(10**6)
    assert found.computed == (0, 3)
    assert measured.spent == few * (3 * SAMPLES + SAMPLES)
