"""Alternative schedules: plans of the mean log damage, without the policy's own plans."""

from __future__ import annotations

import math

import pytest
import torch

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy, save_policy
from dqar.policy.spec import PolicySpec
from dqar.step_schedule import StepSchedule
from pipeline.train.alternative_schedules import averaged, with_rivals
from pipeline.train.planning import planned

STEPS = 12
SNRS = [10.0 ** (step / 4 - 1) for step in range(STEPS)]
FEATURES = ("log_snr", "log_gap", "order", "feedback")


def settings_of(orders, gains=(0.0,)):
    return tuple((order, gain) for order in orders for gain in gains)


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
    with pytest.raises(ValueError, match="the same number of members"):
        averaged(policy_of(1), policy_of(2, members=3))


@pytest.mark.parametrize("orders", [(0,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("gains", [(0.0,), (0.0, 0.5)])
def test_rivals_are_plans_of_explored_settings(orders, gains):
    settings = settings_of(orders, gains)
    policy = planned(policy_of(1), SNRS, settings)
    rivals = with_rivals(policy, policy_of(2), SNRS, settings, math.inf).spec.rivals
    own = policy.spec.setting
    assert len(set(rivals)) == len(rivals)
    assert {rival.setting for rival in rivals} | {own} == set(settings)
    of_own = {rival.computed for rival in rivals if rival.setting == own}
    assert of_own.isdisjoint(policy.spec.plans)
    # Each pair of order and gain has a plan for every number of computed steps.
    numbers = {len(plan) for plan in policy.spec.plans}
    for setting in set(settings) - {own}:
        of_it = {len(one.computed) for one in rivals if one.setting == setting}
        assert of_it == numbers


def test_a_mean_of_two_equal_policies_has_no_rivals_of_its_own_order():
    policy, alone = planned(policy_of(1), SNRS, settings_of((0,))), settings_of((0,))
    assert with_rivals(policy, policy, SNRS, alone, math.inf).spec.rivals == ()


def test_rivals_change_nothing_else_and_are_stored(tmp_path):
    settings = settings_of((0, 1, 2), (0.0, 0.5))
    policy = planned(policy_of(1), SNRS, settings)
    changed = with_rivals(policy, policy_of(2), SNRS, settings, math.inf)
    assert changed.spec.plans == policy.spec.plans
    for name, value in policy.state_dict().items():
        assert torch.equal(changed.state_dict()[name], value)
    save_policy(changed, tmp_path)
    assert load_policy(tmp_path).spec == changed.spec


@pytest.mark.parametrize("computed", [(), (1, 2), (0, 0), (0, 99)])
def test_rivals_that_are_none_are_refused(computed):
    with pytest.raises(ValueError, match="Train the policy again"):
        policy_of(1, rivals=(StepSchedule(computed=computed),))


@pytest.mark.parametrize("changes", [{"forecast_order": 3}, {"feedback": 1.5}])
def test_rivals_of_no_setting_are_refused(changes):
    with pytest.raises(ValueError, match="Train the policy again"):
        StepSchedule(computed=(0,), **changes)
