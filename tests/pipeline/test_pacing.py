"""Schedules are renewals of a known law, and their propensities are exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pacing import (
    LONGEST_GAP,
    PERIODS,
    draw_paced_law,
    draw_regular_law,
    draw_schedule,
    paced_law,
    regular_law,
)

STEPS = 30
LAWS = [draw_paced_law, draw_regular_law]


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
    """The product over steps telescopes to the product over gaps; the last one is cut off."""
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
