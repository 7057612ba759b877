"""Search on the final error without a model: moves, annealing and hill climbing in a budget."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dqar.step_schedule import StepSchedule, check_computed
from pipeline.methods.base import COARSE, CalibrationBudget, Comparison
from pipeline.methods.budget_search import BudgetSearch, searched
from pipeline.methods.search.frontier import numbers_of_grid
from pipeline.methods.search.moves import random_move
from tests.pipeline.made_up_answers import MadeUpSession
from tests.pipeline.methods.search.made_up_errors import made_up, result_of

STEPS = 30
WANTED = (0, 9, 15, 20, 24, 27, 28, 29)


def distance(schedule, noise):
    moved = np.abs(np.subtract(schedule.computed, WANTED)).sum()
    return 0.01 * (1 + 0.1 * moved) * (1 + noise % 4) + 0.01 * schedule.feedback


def test_moves_keep_the_number_of_computed_steps():
    draws = random.Random(0)
    schedule = StepSchedule(computed=WANTED, forecast_order=1, feedback=0.9)
    for _ in range(300):
        schedule = random_move(schedule, STEPS, draws)
        check_computed(schedule.computed, STEPS)
        assert len(schedule) == len(WANTED)
    assert schedule.computed != WANTED


@pytest.mark.parametrize("computed", [(0,), (0, 1, 2)])
def test_schedules_without_a_free_step_only_change_their_setting(computed):
    schedule = StepSchedule(computed=computed, feedback=0.5)
    draws = random.Random(1)
    assert {random_move(schedule, 3, draws).computed for _ in range(50)} == {computed}


def test_the_search_comes_nearer_to_what_errs_least():
    measured = made_up(distance, STEPS)
    best = searched(len(WANTED), measured, 1500)
    even = searched(len(WANTED), made_up(distance, STEPS), 0)
    assert even.computed == (0, 4, 8, 12, 17, 21, 25, 29)
    assert distance(best, 0) < 0.6 * distance(even, 0)
    assert measured.spent <= STEPS * (1500 + 16)


@pytest.mark.parametrize("trajectories", [100, 130, 400])
def test_little_is_left_where_it_is_too_little_to_climb_with(trajectories):
    measured = made_up(distance, STEPS)
    searched(len(WANTED), measured, trajectories)
    references = STEPS * (16 - measured.references_to_come(16))
    spent = measured.spent - references
    assert 0.65 * STEPS * trajectories <= spent <= STEPS * trajectories


@pytest.mark.parametrize("evaluations", [0, 2_000, 30_000])
def test_the_method_keeps_within_its_budget(evaluations):
    def error_of(schedule, noise):
        return 0.01 * sum(np.diff([*schedule.computed, STEPS]) ** 2)

    def answer(tasks):
        return {task.name: result_of(task, error_of, STEPS) for task in tasks}

    comparison = Comparison(methods=("budget-search",), policies={}, grid=COARSE)
    session = MadeUpSession(STEPS, comparison, answer)
    method = BudgetSearch()
    method.tune(session, CalibrationBudget(evaluations=evaluations))
    assert len(method.points(session)) == len(numbers_of_grid(COARSE, STEPS))
    assert {point.schedule_source for point in method.points(session)} == {"search"}
    noise = {one for task in session.asked for one in task.noise_ids}
    spent = STEPS * (sum(task.trajectories for task in session.asked) + len(noise))
    assert spent <= evaluations
