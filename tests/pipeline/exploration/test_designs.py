"""Random reuse decisions and noise: keyed, reproducible, with known propensities."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqar.step_schedule import StepSchedule
from pipeline.exploration.designs import DESIGNS, RATES, explore, parse_designs
from pipeline.models.noise import Purpose, draw_noise, noise_key

STEPS, GATES = 50, 16
BASES = (StepSchedule(computed=(0, 2, 4)), StepSchedule(computed=(0, 3)))


def drawn_for(seed=0, trajectory=0, designs=("independent",)):
    return explore(designs, seed, trajectory, STEPS, GATES, BASES)


def test_draws_depend_only_on_seed_and_trajectory():
    torch.manual_seed(1)
    first = drawn_for(3, 7)
    torch.manual_seed(2)
    drawn_for(9, 9)
    again = drawn_for(3, 7)
    assert torch.equal(first.wants_reuse, again.wants_reuse)
    assert torch.equal(first.draw_id, again.draw_id)
    assert not torch.equal(first.wants_reuse, drawn_for(4, 7).wants_reuse)
    assert not torch.equal(first.wants_reuse, drawn_for(3, 8).wants_reuse)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 2**31))
def test_propensity_is_that_of_the_action_where_a_gate_is_live(seed, trajectory, mask_seed):
    drawn = explore(DESIGNS, seed, trajectory, 6, 5, BASES)
    eligible = torch.rand(6, 5, generator=torch.Generator().manual_seed(mask_seed)) < 0.5
    propensity = drawn.propensity(eligible)
    expected = torch.where(drawn.wants_reuse, drawn.probability, 1 - drawn.probability)
    torch.testing.assert_close(propensity[eligible], expected[eligible])
    assert (propensity[~eligible] == 1).all()


def test_a_synchronised_step_shares_one_draw():
    drawn = drawn_for(designs=("step-synchronised",))
    assert (drawn.draw_id == drawn.draw_id[:, :1]).all()
    assert (drawn.wants_reuse == drawn.wants_reuse[:, :1]).all()
    assert drawn.draw_id[:, 0].unique().numel() == STEPS


def test_independent_gates_have_a_draw_each():
    assert drawn_for().draw_id.unique().numel() == STEPS * GATES


def test_blocked_gates_share_a_draw_with_their_neighbours():
    draw_id = drawn_for(designs=("layer-blocked",)).draw_id
    assert draw_id.unique().numel() == STEPS * 8
    assert (draw_id.diff(dim=1) >= 0).all()
    assert torch.equal(drawn_for(designs=("layer-blocked",)).draw_id[:, ::2], draw_id[:, 1::2])


def test_reuse_is_as_frequent_as_its_rate():
    drawn = [drawn_for(trajectory=index) for index in range(60)]
    assert {one.rate for one in drawn} == set(RATES)
    for rate in RATES:
        mine = torch.stack([one.wants_reuse for one in drawn if one.rate == rate]).float()
        deviations = (mine.mean() - rate).abs() / (rate * (1 - rate) / mine.numel()) ** 0.5
        assert deviations < 4.5


def test_designs_take_turns():
    drawn = [drawn_for(trajectory=index, designs=DESIGNS) for index in range(2 * len(DESIGNS))]
    assert tuple(one.design for one in drawn) == DESIGNS * 2


@pytest.mark.parametrize("design", ["paced", "regular", "near-policy"])
def test_schedules_are_of_all_gates_together(design):
    drawn = drawn_for(designs=(design,))
    assert (drawn.wants_reuse == drawn.wants_reuse[:, :1]).all()
    assert (drawn.draw_id == drawn.draw_id[:, :1]).all()
    assert 0 < drawn.rate < 1


def test_rate_near_a_policy_is_that_of_one_of_its_plans():
    rates = {drawn_for(trajectory=index, designs=("near-policy",)).rate for index in range(20)}
    assert rates == {1 - len(base) / STEPS for base in BASES}


def test_shares_repeat_designs():
    assert parse_designs("independent:2, step-synchronised") == (
        "independent",
        "independent",
        "step-synchronised",
    )


@pytest.mark.parametrize(
    "text", ["", "coin", "paced:0", "paced:x", "paced:-1", "paced:1001", "paced:²"]
)
def test_bad_designs_are_named_with_the_choices(text):
    with pytest.raises(ValueError, match="Choose from paced, regular"):
        parse_designs(text)


def test_noise_of_one_key_does_not_depend_on_its_batch():
    together, labels = draw_noise("collect", 0, [4, 5, 6], (1, 8, 8), 10)
    alone, label = draw_noise("collect", 0, [5], (1, 8, 8), 10)
    assert torch.equal(together[1], alone[0])
    assert labels[1] == label[0]


def test_purposes_seeds_and_indices_give_different_noise():
    keys = {
        noise_key(purpose, seed, index)
        for purpose in get_args(Purpose)
        for seed in range(5)
        for index in range(50)
    }
    assert len(keys) == 5 * 5 * 50
    collect, _ = draw_noise("collect", 0, range(8), (64,), 10)
    evaluate, _ = draw_noise("evaluate", 0, range(8), (64,), 10)
    assert not torch.isclose(collect, evaluate).all(dim=1).any()


def test_labels_are_classes():
    _, labels = draw_noise("collect", 0, range(300), (1,), 10)
    assert set(labels.tolist()) == set(range(10))
