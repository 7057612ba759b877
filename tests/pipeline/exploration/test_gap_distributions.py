"""Random schedules are renewal processes with known gap distributions and exact propensities."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqar.step_schedule import StepSchedule, check_computed
from pipeline.exploration.gap_distributions import (
    LEFT_OUT,
    LONGEST_GAP,
    PERIODS,
    SLIP,
    draw_near_law,
    draw_paced_law,
    draw_regular_law,
    draw_schedule,
    near_law,
    paced_law,
    regular_law,
)

STEPS = 30
BASE = StepSchedule(computed=(0, 4, 8, 13, 15, 17, 19, 20, 21, 29))
OTHERS = ((0, 1), (0, 15, 20), (0, 2, 4, 6))
BASES = (BASE, *(StepSchedule(computed=computed) for computed in OTHERS))
LAWS = [draw_paced_law, draw_regular_law, partial(draw_near_law, BASES)]
SCHEDULES = st.sets(st.integers(1, STEPS - 1)).map(lambda steps: (0, *sorted(steps)))


def drawn(draw_law, seed):
    generator = torch.Generator().manual_seed(seed)
    share, law = draw_law(STEPS, generator)
    return share, law, *draw_schedule(law, generator)


@settings(deadline=None)
@given(st.sampled_from(LAWS), st.integers(0, 2**31))
def test_laws_are_distributions(draw_law, seed):
    share, law, _, _ = drawn(draw_law, seed)
    assert 0 < share < 1
    assert law.shape == (STEPS, LONGEST_GAP)
    assert (law >= 0).all()
    torch.testing.assert_close(law.sum(dim=1), torch.ones(STEPS))


@settings(deadline=None)
@given(st.sampled_from(LAWS), st.integers(0, 2**31))
def test_probability_of_a_schedule_is_that_of_its_gaps(draw_law, seed):
    """The product of the steps' probabilities is the product of the gaps' probabilities; the end of
    the run cuts the last gap off."""
    _, law, wants_reuse, probability = drawn(draw_law, seed)
    assert not wants_reuse[0]
    assert probability[0] == 0
    of_action = torch.where(wants_reuse, probability, 1 - probability).double()
    computed = (~wants_reuse).nonzero()[:, 0].tolist()
    expected = 1.0
    for early, late in zip(computed, [*computed[1:], None], strict=True):
        if late is None:
            expected *= float(law[early, STEPS - early - 1 :].double().sum())
        else:
            expected *= float(law[early, late - early - 1])
    assert float(of_action.prod()) == pytest.approx(expected, rel=1e-4)


def test_a_density_of_one_computes_every_step():
    law = paced_law(torch.ones(STEPS))
    wants_reuse, probability = draw_schedule(law, torch.Generator().manual_seed(0))
    assert not wants_reuse.any()
    assert not probability.any()


@pytest.mark.parametrize("density", [0.2, 0.3, 0.5])
def test_gaps_lie_around_the_inverse_of_the_density(density):
    law = paced_law(torch.full((STEPS,), density))
    mean = float((law[0] * torch.arange(1, LONGEST_GAP + 1)).sum())
    assert mean == pytest.approx(1 / density, rel=0.05)


@pytest.mark.parametrize("period", PERIODS)
def test_regular_gaps_are_the_period_or_one_off(period):
    law = regular_law(STEPS, period)
    assert law[5, period - 1] == pytest.approx(0.8)
    assert law[5].nonzero()[:, 0].tolist() == [period - 2, period - 1, period]
    assert law[0].nonzero()[:, 0].tolist() == list(range(period))


@settings(deadline=None)
@given(SCHEDULES)
def test_laws_near_any_schedule_are_distributions(base):
    law = near_law(STEPS, StepSchedule(computed=base))
    assert (law >= 0).all()
    torch.testing.assert_close(law.sum(dim=1), torch.ones(STEPS))


def test_a_planned_gap_is_kept_slips_or_takes_in_the_next_one():
    law = near_law(STEPS, BASE)[4]
    gaps = {index + 1: float(odd) for index, odd in enumerate(law) if odd > 0}
    kept = 1 - 2 * SLIP - LEFT_OUT
    assert gaps == {
        3: pytest.approx(SLIP),
        4: pytest.approx(kept),
        5: pytest.approx(SLIP),
        9: pytest.approx(LEFT_OUT),
    }


@pytest.mark.parametrize("step", [3, 5])
def test_a_moved_computation_leads_back_to_the_schedule(step):
    """A computation one step off a planned one is followed by the next planned computation."""
    law = near_law(STEPS, BASE)[step]
    assert int(law.argmax()) + 1 + step == 8


def test_between_two_planned_computations_it_may_be_a_move_of_either():
    law = near_law(STEPS, BASE)[16]
    assert sorted(law.topk(2).indices.tolist()) == [0, 2]
    assert float(law.topk(2).values.min()) > 0.35


def test_where_every_step_is_planned_no_gap_is_below_one():
    law = near_law(STEPS, StepSchedule(computed=tuple(range(STEPS))))[10]
    kept, longer = 1 - 2 * SLIP - LEFT_OUT, SLIP + LEFT_OUT
    assert law[:2].tolist() == pytest.approx([kept / (1 - SLIP), longer / (1 - SLIP)])


def test_gaps_beyond_the_longest_are_cut_to_it():
    law = near_law(STEPS, StepSchedule(computed=(0,)))
    assert law[0].nonzero()[:, 0].tolist() == [LONGEST_GAP - 1]


def test_the_end_of_the_run_is_a_stop():
    """After the last planned step no step computes, except the last step of the run by a gap that
    is one step shorter."""
    law = near_law(STEPS, StepSchedule(computed=(0, 25)))[25]
    assert law.nonzero()[:, 0].tolist() == [3, 4, 5, LONGEST_GAP - 1]
    assert float(law[3]) == pytest.approx(SLIP)


def test_schedules_near_one_differ_from_it_in_a_few_moves():
    law = near_law(STEPS, BASE)
    generator = torch.Generator().manual_seed(0)
    drawn = [~draw_schedule(law, generator)[0] for _ in range(400)]
    count = torch.stack(drawn).sum(dim=1).float()
    assert float(count.mean()) == pytest.approx(len(BASE), abs=1.0)
    base = torch.zeros(STEPS, dtype=torch.bool)
    base[list(BASE.computed)] = True
    moved = torch.stack([(one & ~base).sum() for one in drawn]).float()
    assert 1.0 < float(moved.mean()) < 3.0
    assert len({tuple(one.tolist()) for one in drawn}) > 200


def test_each_schedule_is_as_likely_a_base():
    generator = torch.Generator().manual_seed(0)
    shares = [draw_near_law(BASES, STEPS, generator)[0] for _ in range(400)]
    counts = [shares.count(len(base) / STEPS) for base in BASES]
    assert counts == [pytest.approx(count, abs=35) for count in (100,) * 4]


@pytest.mark.parametrize("schedule", [(), (1, 2), (0, 2, 1), (0, 2, 2), (0, STEPS)])
def test_what_is_no_schedule_is_refused(schedule):
    with pytest.raises(ValueError, match="growing steps from 0 to below 30"):
        check_computed(schedule, STEPS)
