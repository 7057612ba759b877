"""``StepSchedule``: masks, gains, and the schedules and settings that are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqar.step_schedule import StepSchedule, check_computed

STEPS = 12


@given(st.sets(st.integers(1, STEPS - 1)))
def test_a_mask_reuses_where_nothing_computes(others):
    schedule = StepSchedule(computed=(0, *sorted(others)))
    check_computed(schedule.computed, STEPS)
    reuse = schedule.mask(STEPS)
    assert tuple((~reuse).nonzero()[:, 0].tolist()) == schedule.computed
    assert len(schedule) == STEPS - int(reuse.sum())


def test_another_gain_leaves_steps_and_order():
    schedule = StepSchedule(computed=(0, 3), forecast_order=2, feedback=0.5)
    assert schedule.with_feedback(0.25).setting == (2, 0.25)
    assert schedule.with_feedback(0.25).computed == schedule.computed


@pytest.mark.parametrize(
    "changes",
    [{"forecast_order": 3}, {"forecast_order": -1}, {"feedback": 1.1}, {"feedback": float("nan")}],
)
def test_a_setting_out_of_range_is_refused(changes):
    with pytest.raises(ValueError, match="forecast_order must be 0 to 2, and feedback in"):
        StepSchedule(computed=(0,), **changes)


@pytest.mark.parametrize("computed", [(), (1, 2), (0, 2, 2), (0, STEPS), (0, 3, 1)])
def test_steps_that_are_no_schedule_are_refused(computed):
    with pytest.raises(ValueError, match="growing steps from 0 to below 12"):
        check_computed(computed, STEPS)
