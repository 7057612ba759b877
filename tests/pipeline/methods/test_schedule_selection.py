"""Selection of schedules: each is the best of several on the same calibration noise samples."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.gates.planned import ScheduleGate
from dqar.gates.rules import MaskGate
from dqar.step_schedule import StepSchedule
from pipeline.methods.base import COARSE, SweepGrid
from pipeline.methods.calibration import CalibrationTask
from pipeline.methods.learned_schedule import numbers_of, planned_points
from pipeline.methods.schedule_selection import (
    FINAL_SAMPLES,
    SCREENING_SAMPLES,
    SHORTLIST,
    TASK_SAMPLES,
    candidates,
    select_schedules,
    uniform_steps,
)
from tests.pipeline.made_up_answers import (
    CANDIDATES,
    NOISES,
    PLANS,
    STEPS,
    answer_by,
    comparison,
    planned_policy,
)


@given(st.integers(1, 200), st.data())
def test_an_even_schedule_is_a_regular_one(steps, data):
    number = data.draw(st.integers(1, steps))
    computed = uniform_steps(steps, number)
    gaps = [late - early for early, late in itertools.pairwise((*computed, steps))]
    assert computed[0] == 0
    assert len(set(computed)) == number
    assert sum(gaps) == steps
    assert max(gaps) - min(gaps) <= 1


def test_even_schedules_of_a_whole_period_are_the_interval():
    assert uniform_steps(STEPS, 10) == tuple(range(0, STEPS, 2))
    assert uniform_steps(STEPS, STEPS) == tuple(range(STEPS))


def test_numbers_are_those_of_the_grid_that_have_a_plan():
    grid = SweepGrid(reuse_ratios=(0.5, 0.501, 0.95, 1.0, 0.0))
    spec = planned_policy().spec
    # Ratio 0.95 means one computed step, for which there is no plan; ratio 1.0 means none.
    assert numbers_of(spec, grid) == [10, 20]


@pytest.mark.parametrize("loser", ["policy", "uniform"])
def test_the_better_candidate_is_taken(loser):
    policy = planned_policy()

    def error_of(computed, noise):
        is_even = computed == uniform_steps(STEPS, len(computed))
        return 0.02 if is_even == (loser == "uniform") else 0.01

    points = planned_points("learned-x", policy, comparison(), answer_by(error_of))
    # Equal errors: the first candidate is taken, for uniform schedules the lowest order.
    taken, order = ("uniform", 0) if loser == "policy" else ("policy", 2)
    numbers = numbers_of(policy.spec, COARSE)
    assert [point.operating_point for point in points] == [
        f"{taken},computed={number},order={order},feedback=0" for number in numbers
    ]
    for point, number in zip(points, numbers, strict=True):
        assert (point.method, point.steps, point.forecast_order) == ("learned-x", STEPS, order)
        assert point.schedule is not None
        assert point.schedule_source == taken
        if taken == "policy":
            assert isinstance(point.gate, ScheduleGate)
            assert point.gate.computed == set(policy.spec.schedule_of(number).computed)
        else:
            assert isinstance(point.gate, MaskGate)
            assert point.gate.reuse.shape == (STEPS, 1, 1)
            computed = (~point.gate.reuse[:, 0, 0]).nonzero()[:, 0]
            assert tuple(computed.tolist()) == uniform_steps(STEPS, number)


EARLY = tuple((0, *range(2, number + 1)) for number in range(2, STEPS))
"""Schedules that compute step 0 and steps from 2 on, one for each number of computed steps."""


def rivals_of(*orders, feedback=0.0):
    return tuple(
        StepSchedule(computed=plan, forecast_order=order, feedback=feedback)
        for order in orders
        for plan in EARLY
    )


@pytest.mark.parametrize("best", [0, 1, 2])
@pytest.mark.parametrize("kind", ["alternative", "uniform"])
def test_the_best_order_is_taken(kind, best):
    policy = planned_policy(rivals=rivals_of(0, 1, 2))

    def error_of(computed, noise):
        return {
            "uniform": uniform_steps(STEPS, len(computed)) == computed,
            "alternative": computed in EARLY,
        }[kind]

    def error(computed, noise):
        return 0.01 if error_of(computed, noise) else 0.02

    by_order = dict.fromkeys({0, 1, 2} - {best}, 0.05)
    points = planned_points("learned", policy, comparison(), answer_by(error, None, by_order))
    assert len(points) == len(numbers_of(policy.spec, COARSE))
    for point in points:
        assert point.schedule is not None
        assert (point.schedule_source, point.forecast_order) == (kind, best)
        assert point.operating_point == (
            f"{kind},computed={len(point.schedule)},order={best},feedback=0"
        )
        # Only the policy's own schedules have a ScheduleGate.
        assert isinstance(point.gate, MaskGate)


def test_candidates_are_of_the_settings_that_training_had():
    rivals = rivals_of(1) + rivals_of(0, feedback=0.8)
    spec = planned_policy(forecast_order=1, feedback=0.4, rivals=rivals).spec
    schedules = candidates(spec, 7)
    assert [(one.source, *one.schedule.setting) for one in schedules] == [
        ("policy", 1, 0.4),
        ("alternative", 1, 0.0),
        ("alternative", 0, 0.8),
        ("uniform", 0, 0.0),
        ("uniform", 1, 0.0),
        ("uniform", 1, 0.4),
        ("uniform", 0, 0.8),
        ("alternative", 1, 0.2),
        ("alternative", 0, 0.4),
        ("uniform", 1, 0.2),
        ("uniform", 0, 0.4),
        ("alternative", 1, 0.6),
        ("alternative", 0, 1.0),
        ("uniform", 1, 0.6),
        ("uniform", 0, 1.0),
    ]
    assert {len(one.schedule) for one in schedules} == {7}


def test_a_plan_that_diverges_loses():
    def error(computed, noise):
        return 0.01 if computed == uniform_steps(STEPS, len(computed)) else float("nan")

    judged = select_schedules(planned_policy().spec, [6, 10], answer_by(error))
    assert [one.source for one in judged] == ["uniform", "uniform"]
    assert [one.error for one in judged] == pytest.approx([0.01, 0.01])


def test_each_error_is_the_mean_over_the_same_noises():
    def error_of(computed, noise):
        return 0.01 * len(computed) + noise

    judged = select_schedules(planned_policy().spec, [3, 7, 12], answer_by(error_of))
    mean_noise = sum(FINAL_SAMPLES) / NOISES
    for one, number in zip(judged, [3, 7, 12], strict=True):
        assert len(one.schedule.computed) == number
        assert one.error == pytest.approx(0.01 * number + mean_noise)


def test_masks_and_noises_line_up_in_bounded_batches():
    asked: list[CalibrationTask] = []
    numbers = [len(plan) for plan in PLANS]
    select_schedules(planned_policy().spec, numbers, answer_by(lambda computed, noise: 0.0, asked))
    assert sum(probe.num_samples for probe in asked) == CANDIDATES * len(numbers) * NOISES
    for probe in asked:
        assert isinstance(probe.gate, MaskGate)
        assert (
            probe.num_samples == len(probe.noise_ids) == probe.gate.reuse.shape[2] <= TASK_SAMPLES
        )
        orders = torch.tensor(probe.forecast_order).unflatten(0, (-1, NOISES))
        columns = probe.gate.reuse[:, 0].unflatten(1, (-1, NOISES))
        assert (columns == columns[:, :, :1]).all()
        assert (orders == orders[:, :1]).all()
        assert probe.noise_ids == tuple(FINAL_SAMPLES) * columns.shape[1]


@pytest.mark.parametrize(
    ("explored", "best"), [(0.0, 0.0), (0.5, 0.1), (0.5, 0.25), (0.5, 0.5), (0.5, 0.9)]
)
def test_gains_beside_the_best_are_tried(explored, best):
    policy = planned_policy(rivals=rivals_of(0, feedback=explored))

    def error_of(computed, noise, gain):
        return (0.01 if computed in EARLY else 0.05) + 0.001 * abs(gain - best)

    (judged,) = select_schedules(policy.spec, [7], answer_by(error_of, by_gain=True))
    assert (judged.source, judged.schedule.computed) == ("alternative", EARLY[5])
    assert judged.schedule.feedback == best
    assert judged.error == pytest.approx(0.01)


def test_a_regular_schedule_is_judged_in_full_whatever_a_few_noises_say():
    spec = planned_policy(rivals=rivals_of(0, 1, 2)).spec

    def error_of(computed, noise):
        if computed == uniform_steps(STEPS, len(computed)):
            return 0.2 if noise in SCREENING_SAMPLES else 0.01
        return 0.1

    (judged,) = select_schedules(spec, [7], answer_by(error_of))
    assert judged.source == "uniform"


def test_many_candidates_are_shortlisted_by_a_few_noises():
    spec = planned_policy(rivals=rivals_of(0, 1, 2)).spec
    asked: list[CalibrationTask] = []

    def error_of(computed, noise):
        return 0.01 if computed in EARLY else 0.02

    (judged,) = select_schedules(spec, [7], answer_by(error_of, asked))
    assert judged.source == "alternative"
    first = [probe for probe in asked if set(probe.noise_ids) == set(SCREENING_SAMPLES)]
    more = [probe for probe in asked if set(probe.noise_ids) == set(FINAL_SAMPLES)]
    everyone = len(candidates(spec, 7))
    assert sum(probe.num_samples for probe in first) == everyone * len(SCREENING_SAMPLES)
    # The policy's own schedule is scored in the second round besides the shortlist.
    assert sum(probe.num_samples for probe in more) == (SHORTLIST + 1) * NOISES
    assert len(first) + len(more) == len(asked)


def test_a_policy_that_is_not_asked_for_has_no_points():
    def nobody(probes):
        raise AssertionError("nothing is to be judged")

    assert (
        planned_points("learned", planned_policy(), comparison(methods=("static",)), nobody) == []
    )
