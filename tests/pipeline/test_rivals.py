"""Plans of the mean of two log damages, by order, none of them the policy's own."""

from __future__ import annotations

import math

import pytest
import torch

from dqar.policy import ReusePolicy
from dqar.policy_file import load_policy, save_policy
from dqar.policy_spec import PolicySpec
from pipeline.planning import planned
from pipeline.rivals import averaged, with_rivals

STEPS = 12
SNRS = [10.0 ** (step / 4 - 1) for step in range(STEPS)]
FEATURES = ("log_snr", "log_gap", "order")


def policy_of(seed, **changes):
    values = {
        "steps": STEPS,
        "max_gap": 4,
        "granularity": "step",
        "members": 2,
        "forecast_order": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = ReusePolicy(PolicySpec(features=FEATURES, hidden=(8,), **(values | changes)))
    return policy.eval().requires_grad_(False)


def test_the_mean_is_the_mean():
    one, other = policy_of(1), policy_of(2)
    rows = torch.randn(9, len(FEATURES), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(averaged(one, other)(rows), (one(rows) + other(rows)) / 2)


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(ValueError, match="as many members"):
        averaged(policy_of(1), policy_of(2, members=3))


@pytest.mark.parametrize("orders", [(0,), (0, 1), (0, 1, 2)])
def test_rivals_are_plans_of_explored_orders(orders):
    policy = planned(policy_of(1), SNRS, orders)
    rivals = with_rivals(policy, policy_of(2), SNRS, orders, math.inf).spec.rivals
    own = policy.spec.forecast_order
    assert len(rivals) == own + 1
    for order, plans in enumerate(rivals):
        assert len(set(plans)) == len(plans)
        assert not plans or order in orders
    assert set(rivals[own]).isdisjoint(policy.spec.plans)
    assert any(rivals)


def test_a_mean_of_two_equal_policies_has_no_rivals_of_its_own_order():
    policy = planned(policy_of(1), SNRS, (0,))
    assert with_rivals(policy, policy, SNRS, (0,), math.inf).spec.rivals == ((),)


def test_rivals_change_nothing_else_and_are_stored(tmp_path):
    policy = planned(policy_of(1), SNRS, (0, 1, 2))
    changed = with_rivals(policy, policy_of(2), SNRS, (0, 1, 2), math.inf)
    assert changed.spec.plans == policy.spec.plans
    for name, value in policy.state_dict().items():
        assert torch.equal(changed.state_dict()[name], value)
    save_policy(changed, tmp_path)
    assert load_policy(tmp_path).spec == changed.spec


@pytest.mark.parametrize("rivals", [(((0, 3),),), (((0, 3),), ((1, 2),), ()), ((), (), ((0, 99),))])
def test_rivals_that_are_none_are_refused(rivals):
    with pytest.raises(ValueError, match="Train the policy again"):
        policy_of(1, rivals=rivals)
