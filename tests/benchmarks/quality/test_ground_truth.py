"""Ground truth of single steps: drawn toggles, predicted damage, and correlations."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from benchmarks.quality.ground_truth import (
    TOGGLES,
    compare,
    draw_toggles,
    predicted_damage,
    rank_correlation,
)
from dqar.policy.network import ReusePolicy
from dqar.policy.planner import plan_steps, step_damage
from dqar.policy.spec import PolicySpec

STEPS, MAX_GAP = 12, 4
SNRS = [0.02 * 1.6**step for step in range(STEPS)]


@pytest.fixture
def policy():
    torch.manual_seed(0)
    spec = PolicySpec(
        features=("log_gap", "log_span", "log_snr", "order"),
        steps=STEPS,
        max_gap=MAX_GAP,
        num_layers=2,
        granularity="step",
    )
    return ReusePolicy(spec).eval().requires_grad_(False)


def test_toggles_are_fixed_by_their_seed_and_stay_within_what_is_known():
    toggles = draw_toggles(30, 5, STEPS, MAX_GAP)
    assert toggles == draw_toggles(30, 5, STEPS, MAX_GAP)
    assert toggles != draw_toggles(31, 5, STEPS, MAX_GAP)
    assert len(toggles) >= 5 * TOGGLES
    for toggle in toggles:
        changed = [a != b for a, b in zip(toggle.computes, toggle.toggled, strict=True)]
        assert changed == [step == toggle.step for step in range(STEPS)]
        for computes in (toggle.computes, toggle.toggled):
            steps = [step for step, does in enumerate(computes) if does]
            assert steps[0] == 0
            assert all(late - early <= MAX_GAP + 1 for early, late in pairwise([*steps, STEPS]))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_plan_is_predicted_the_damage_that_the_planner_counted(policy, order):
    damage = step_damage(policy, SNRS, order, MAX_GAP)
    for plan in plan_steps(policy, SNRS, order, MAX_GAP):
        computes = tuple(step in plan.schedule.computed for step in range(STEPS))
        assert predicted_damage(damage, computes) == pytest.approx(plan.error**2, rel=1e-4)


def test_ranks_agree_whatever_the_scale():
    values = torch.tensor([0.3, -1.0, 4.0, 2.0])
    assert rank_correlation(values, values.exp()) == pytest.approx(1.0)
    assert rank_correlation(values, -values) == pytest.approx(-1.0)


def test_the_ceiling_is_one_without_noise_and_falls_with_it():
    generator = torch.Generator().manual_seed(2)
    truth = torch.randn(300, generator=generator).double()
    exact = compare(truth[:, None].expand(-1, 8), truth)
    assert exact == pytest.approx(dict.fromkeys(exact, 1.0))
    noise = 4.0 * torch.randn(300, 8, generator=generator).double()
    noisy = compare(truth[:, None] + noise, truth)
    assert noisy["split_half"] < noisy["ceiling"] < 0.9
    assert noisy["rank_correlation"] == pytest.approx(noisy["ceiling"], abs=0.1)
