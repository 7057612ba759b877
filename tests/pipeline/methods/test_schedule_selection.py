"""Selection of schedules: the best of several candidates, and what a search finds around it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqar.gates.planned import ScheduleGate
from dqar.gates.rules import MaskGate
from dqar.step_schedule import StepSchedule
from pipeline.methods.base import COARSE, CalibrationBudget, SweepGrid
from pipeline.methods.calibration import CalibrationTask
from pipeline.methods.learned_schedule import (
    EXPLORATION,
    LearnedSchedule,
    numbers_of,
    planned_points,
)
from pipeline.methods.schedule_selection import (
    HELD_OUT,
    SEARCHED_ON,
    ScheduleSelection,
)
from pipeline.methods.search.candidates import candidates, uniform_steps, with_number
from tests.pipeline.made_up_answers import (
    PLANS,
    STEPS,
    MadeUpSession,
    answer_by,
    comparison,
    planned_policy,
)

FEW = CalibrationBudget(evaluations=STEPS * (100 * 5 + HELD_OUT.stop))
"""Enough for successive halving over a few candidates of five numbers, and for no local search."""


@given(st.integers(1, 200), st.data())
def test_an_even_schedule_is_a_regular_one(steps, data):
    number = data.draw(st.integers(1, steps))
    computed = uniform_steps(steps, number)
    gaps = [late - early for early, late in itertools.pairwise((*computed, steps))]
    assert computed[0] == 0
    assert len(set(computed)) == number
    assert sum(gaps) == steps
    assert max(gaps) - min(gaps) <= 1


def test_numbers_are_those_of_the_grid_that_have_a_plan():
    grid = SweepGrid(reuse_ratios=(0.5, 0.501, 0.95, 1.0, 0.0))
    # Ratio 0.95 means one computed step, for which there is no plan; ratio 1.0 means none.
    assert numbers_of(planned_policy().spec, grid) == [10, 20]


RIVALS = tuple(
    StepSchedule(computed=(0, *range(2, number + 1)), forecast_order=order, feedback=gain)
    for number in range(2, STEPS)
    for order, gain in ((1, 0.5), (0, 0.0))
)
"""Schedules that compute step 0 and steps from 2 on."""


@pytest.mark.parametrize("best", ["policy", "alternative", "spaced", "uniform"])
def test_the_best_candidate_is_taken_whatever_its_origin(best):
    policy = planned_policy(rivals=RIVALS)
    kinds = {
        one.schedule.computed: one.source
        for number in numbers_of(policy.spec, COARSE)
        for one in reversed(candidates(policy.spec, number))
    }

    def error_of(computed, noise):
        return 0.01 if kinds.get(computed) == best else 0.02

    points = planned_points("learned-x", policy, comparison(), answer_by(error_of), FEW)
    assert [len(point.schedule or ()) for point in points] == numbers_of(policy.spec, COARSE)
    for point in points:
        assert point.schedule is not None
        assert (point.method, point.steps) == ("learned-x", STEPS)
        is_own = point.schedule == policy.spec.schedule_of(len(point.schedule))
        assert isinstance(point.gate, ScheduleGate if is_own else MaskGate)
        if best != "uniform":
            # Of five numbers some even schedules come after what the budget can afford.
            assert kinds[point.schedule.computed] == best


def test_candidates_begin_with_the_policy_and_are_of_one_number():
    policy = planned_policy(rivals=RIVALS)
    found = candidates(policy.spec, 7)
    assert found[0].schedule == policy.spec.schedule_of(7)
    assert {len(one.schedule) for one in found} == {7}
    assert {one.source for one in found[:8]} == {"policy", "alternative", "spaced", "uniform"}
    assert len({one.schedule for one in found}) >= len(found) - 2
    gains = {one.schedule.feedback for one in found if one.source == "alternative"}
    assert gains == {0.0, 0.3, 0.5, 0.7}


@pytest.mark.parametrize("steps", [4, 8])
def test_few_steps_are_searched_exhaustively(steps):
    plans = tuple(tuple(range(number)) for number in range(2, steps + 1))
    policy = planned_policy(
        steps=steps, plans=plans, plan_errors=(0.1,) * len(plans), forecast_order=0
    )
    best = (0, 1, steps - 1)

    def error_of(computed, noise):
        return 0.01 if computed == best else 0.02

    selection = ScheduleSelection(
        policy, answer_by(error_of), CalibrationBudget(evaluations=50_000)
    )
    (found,) = selection.select([3])
    assert found.schedule.computed == best
    assert found.error == pytest.approx(0.01)


def test_a_schedule_of_another_number_keeps_its_spacing():
    schedule = StepSchedule(computed=(0, 10, 16, 20), forecast_order=2, feedback=0.4)
    fewer, more = (with_number(schedule, number, 24) for number in (3, 7))
    assert fewer.computed == (0, 13, 20)
    assert more.computed == (0, 5, 10, 13, 16, 18, 20)
    assert fewer.setting == more.setting == schedule.setting
    assert with_number(schedule, 24, 24).computed == tuple(range(24))


def test_diverged_candidates_lose():
    policy = planned_policy(rivals=RIVALS)

    def error(computed, noise):
        return 0.01 if computed == uniform_steps(STEPS, len(computed)) else float("nan")

    (found,) = ScheduleSelection(policy, answer_by(error), FEW).select([6])
    assert found.schedule.computed == uniform_steps(STEPS, 6)
    assert found.error == pytest.approx(0.01)


WANTED = (0, 5, 9, 12, 14, 17, 19)


def far_from_wanted(computed, noise):
    """An error that grows with the distance from a schedule that no candidate is near to."""
    if len(computed) != len(WANTED):
        return 0.001 * (1 + STEPS - len(computed))
    return 0.01 * (1 + np.abs(np.subtract(computed, WANTED)).sum()) * (1 + 0.2 * (noise % 5))


def test_a_search_goes_on_from_the_best_candidate():
    asked: list[CalibrationTask] = []
    policy = planned_policy(max_gap=6)
    budget = CalibrationBudget(evaluations=STEPS * 1000)
    selection = ScheduleSelection(policy, answer_by(far_from_wanted, asked), budget)
    (found,) = selection.select([len(WANTED)])
    options = candidates(policy.spec, len(WANTED))
    least = min(far_from_wanted(one.schedule.computed, 0) for one in options)
    assert far_from_wanted(found.schedule.computed, 0) < least
    assert found.source == "search"
    noise = {one for task in asked for one in task.noise_ids}
    assert noise == set(range(HELD_OUT.stop))
    assert STEPS * (sum(task.num_samples for task in asked) + len(noise)) <= STEPS * 1000


def test_a_result_that_is_worse_on_held_out_samples_is_not_taken():
    policy = planned_policy(max_gap=6)
    known = {one.schedule.computed for one in candidates(policy.spec, len(WANTED))}

    def error_of(computed, noise):
        if noise in HELD_OUT:
            return 0.01 if computed in known else 0.05
        return far_from_wanted(computed, noise)

    budget = CalibrationBudget(evaluations=STEPS * 1000)
    (found,) = ScheduleSelection(policy, answer_by(error_of), budget).select([len(WANTED)])
    assert found.source != "search"


def test_masks_and_noises_line_up_in_bounded_batches():
    asked: list[CalibrationTask] = []
    numbers = [len(plan) for plan in PLANS[:4]]
    policy = planned_policy()
    ScheduleSelection(policy, answer_by(lambda computed, noise: 0.1, asked), FEW).select(numbers)
    for task in asked:
        assert isinstance(task.gate, MaskGate)
        assert task.num_samples == len(task.noise_ids) == task.gate.reuse.shape[2] <= 96
        assert set(task.noise_ids) <= set(range(SEARCHED_ON))


@pytest.mark.parametrize("explored", [0, 3_000, 10**6])
def test_exploration_counts_in_the_budget(explored):
    policy = planned_policy(metrics={EXPLORATION: float(explored)})
    asked: list[CalibrationTask] = []
    session = MadeUpSession(
        steps=STEPS,
        comparison=comparison(evaluations=20_000),
        answer=answer_by(lambda computed, noise: 0.1, asked),
    )
    method = LearnedSchedule("learned", policy)
    cost = method.tune(session, session.comparison.calibration_budget)
    noise = {one for task in asked for one in task.noise_ids}
    spent = STEPS * (sum(task.num_samples for task in asked) + len(noise))
    assert spent <= max(0, 20_000 - explored)
    assert cost.evaluations == session.cost.evaluations + explored
    points = method.points(session)
    assert len(points) == len(numbers_of(policy.spec, COARSE))
    if explored == 10**6:
        assert {point.schedule_source for point in points} == {"policy"}


def test_a_policy_that_is_not_asked_for_has_no_points():
    def nobody(probes):
        raise AssertionError("nothing is to be judged")

    points = planned_points(
        "learned", planned_policy(), comparison(methods=("static",)), nobody, FEW
    )
    assert points == []
