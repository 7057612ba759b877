"""Minimax paths over stretches, and the method that weighs stretches by their final error."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.methods.base import COARSE, CalibrationBudget, Comparison
from pipeline.methods.one_stretch import OneStretch
from pipeline.methods.search.frontier import numbers_of_grid
from pipeline.methods.search.stretches import minimax_path, stretch_weights
from tests.pipeline.made_up_answers import MadeUpSession
from tests.pipeline.methods.search.made_up_errors import made_up, result_of


def sorted_weights(computed, weights):
    steps = len(weights)
    ends = [*computed[1:], steps]
    found = [weights[start, end - start - 1] for start, end in zip(computed, ends, strict=True)]
    return sorted(found, reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_the_path_is_the_lexicographic_minimax_of_all_paths(seed):
    steps, number = 9, 4
    weights = np.random.default_rng(seed).integers(0, 5, (steps, steps)).astype(float)
    weights[:, 0] = -np.inf
    every = [(0, *later) for later in itertools.combinations(range(1, steps), number - 1)]
    best = min(sorted_weights(one, weights) for one in every)
    found = minimax_path(weights, number)
    assert len(found) == number
    assert sorted_weights(found, weights) == best


def test_paths_that_need_an_unknown_stretch_fall_back_on_even_steps():
    weights = np.full((12, 12), np.inf)
    weights[:, 0] = -np.inf
    assert minimax_path(weights, 3) == (0, 4, 8)


STEPS = 20


def late_is_worse(schedule, noise):
    """An error that a reuse adds to more the later it is, and the longer its stretch."""
    reused = sorted(set(range(STEPS)) - set(schedule.computed))
    return 1e-4 + sum(0.001 * (1 + step) for step in reused)


@pytest.mark.parametrize("trajectories", [40, 150, 1000])
def test_weights_are_measured_at_some_stretches_and_interpolated(trajectories):
    measured = made_up(late_is_worse, STEPS)
    weights = stretch_weights(measured, trajectories)
    assert measured.spent <= STEPS * (trajectories + 4)
    assert (weights[:, 0] == -np.inf).all()
    assert (np.diff(weights[:-1, 1]) >= 0).all()
    assert weights[3, 1] < weights[3, 2] < weights[3, 4]


def test_where_late_reuse_is_worse_late_steps_compute():
    measured = made_up(late_is_worse, STEPS)
    computed = minimax_path(stretch_weights(measured, 1000), 8)
    gaps = np.diff([*computed, STEPS])
    assert gaps[:3].sum() > gaps[-3:].sum()


@pytest.mark.parametrize("evaluations", [5_000, 20_000])
def test_the_method_has_a_point_for_each_number_within_its_budget(evaluations):
    def answer(tasks):
        return {task.name: result_of(task, late_is_worse, STEPS) for task in tasks}

    comparison = Comparison(methods=("one-stretch",), policies={}, grid=COARSE)
    session = MadeUpSession(STEPS, comparison, answer)
    method = OneStretch()
    method.tune(session, CalibrationBudget(evaluations=evaluations))
    points = method.points(session)
    assert {point.schedule_source for point in points} == {"stretches"}
    assert len(points) == len(numbers_of_grid(COARSE, STEPS))
    noise = {one for task in session.asked for one in task.noise_ids}
    spent = STEPS * (sum(task.trajectories for task in session.asked) + len(noise))
    assert spent <= evaluations
