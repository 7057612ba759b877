"""Spacing rules: their steps, and the choice of powers, order and gain by measurement."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqar.gates.rules import MaskGate
from pipeline.methods.base import COARSE, CalibrationBudget, Comparison
from pipeline.methods.search.frontier import numbers_of_grid
from pipeline.methods.search.spacing import (
    Spacing,
    distinct_steps,
    first_spacings,
    spaced_steps,
    spacings_around,
)
from pipeline.methods.spaced import SpacedSteps, best_spacing
from tests.pipeline.made_up_answers import MadeUpSession
from tests.pipeline.methods.search.made_up_errors import made_up, result_of

STEPS = 50


@given(
    st.integers(2, 60),
    st.floats(0.3, 4.0),
    st.floats(0.3, 4.0),
    st.data(),
)
def test_spaced_steps_are_distinct_and_start_at_0(steps, late, early, data):
    number = data.draw(st.integers(1, steps))
    computed = spaced_steps(number, steps, late, early)
    assert len(set(computed)) == number
    assert list(computed) == sorted(computed)
    assert computed[0] == 0
    assert computed[-1] < steps


def test_the_powers_bend_the_late_and_the_early_end():
    assert spaced_steps(5, 41, 1.0) == (0, 10, 20, 30, 40)
    assert np.diff(spaced_steps(8, STEPS, 2.0)).tolist() == sorted(
        np.diff(spaced_steps(8, STEPS, 2.0)).tolist(), reverse=True
    )
    one_sided, two_sided = spaced_steps(8, STEPS, 1.5), spaced_steps(8, STEPS, 1.5, 1.5)
    assert two_sided[1] < one_sided[1]
    assert two_sided[-1] == one_sided[-1] == STEPS - 1


def test_places_that_are_taken_move_to_the_next_free_step():
    assert distinct_steps([0.0, 0.2, 0.4, 3.0, 3.9, 3.95], 6) == (0, 1, 2, 3, 4, 5)


def test_every_number_of_a_grid_is_once_and_at_least_two():
    assert numbers_of_grid(COARSE, 50) == [12, 16, 20, 25, 30]
    assert numbers_of_grid(COARSE, 4) == [2]


@pytest.mark.parametrize("worst_last", ["early", "late"])
def test_powers_stay_positive_over_many_rounds(worst_last):
    best = min(first_spacings(), key=lambda rule: getattr(rule, worst_last))
    for _ in range(22):
        best = min(spacings_around(best), key=lambda rule: getattr(rule, worst_last))
        assert len(best.schedule(12, STEPS)) == 12


WANTED = Spacing(late=1.6, early=0.9, forecast_order=1, feedback=0.4)


def distance(schedule, noise):
    """An error that grows with the distance from the schedule of a rule."""
    wanted = WANTED.schedule(len(schedule), STEPS)
    moved = np.abs(np.subtract(schedule.computed, wanted.computed)).mean()
    other = abs(schedule.feedback - 0.4) + 0.5 * (schedule.forecast_order != 1)
    return 0.01 * math.exp(0.3 * moved + other) * (1 + 0.1 * (noise % 3))


def test_the_best_rule_is_near_the_one_that_errs_least():
    measured = made_up(distance, STEPS)
    best = best_spacing(12, measured, 600, [])
    assert best.forecast_order == 1
    assert distance(best.schedule(12, STEPS), 0) < 0.014


@pytest.mark.parametrize("evaluations", [0, 5_000, 50_000, None])
def test_the_method_has_a_point_for_each_number_within_its_budget(evaluations):
    budget = CalibrationBudget(evaluations=evaluations)
    comparison = Comparison(methods=("spaced",), policies={}, grid=COARSE)

    def answer(tasks):
        return {task.name: result_of(task, distance, STEPS) for task in tasks}

    session = MadeUpSession(STEPS, comparison, answer)
    method = SpacedSteps()
    method.tune(session, budget)
    points = method.points(session)
    assert len(points) == len(numbers_of_grid(COARSE, STEPS))
    for point, number in zip(points, numbers_of_grid(COARSE, STEPS), strict=True):
        assert isinstance(point.gate, MaskGate)
        assert point.schedule_source == "spaced"
        assert int((~point.gate.reuse).sum()) == number
    noise = {one for task in session.asked for one in task.noise_ids}
    spent = STEPS * (sum(task.trajectories for task in session.asked) + len(noise))
    assert spent <= (50_000_000 if evaluations is None else evaluations)
