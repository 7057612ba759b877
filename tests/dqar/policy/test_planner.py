"""Plans are optimal for a given damage, and the damage is the policy's prediction of each state."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqar.policy.network import PolicySpec, ReusePolicy
from dqar.policy.planner import _solve, plan_steps, step_damage
from dqar.records import FEATURE_SETS

STEPS, GAPS = 7, 3
SCHEDULE = FEATURE_SETS["schedule"]


def random_policy(features=SCHEDULE, **changes):
    torch.manual_seed(0)
    spec = PolicySpec(features=features, num_layers=3, granularity="step", members=2, **changes)
    return ReusePolicy(spec).eval()


def spans_behind(computed, step):
    behind = [other for other in computed if other < step][-3:]
    spans = [late - early for early, late in itertools.pairwise(behind)][::-1]
    return behind[-1], *[*spans, 0, 0][:2]


def cost_of(damage, computed):
    """Sum the damage of the steps that reuse, one step after the other."""
    total = 0.0
    for step in set(range(len(damage))) - set(computed):
        last, span, before = spans_behind(computed, step)
        if step - last > damage.shape[1]:
            return math.inf
        total += float(damage[step, step - last - 1, span, before])
    return total


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_no_other_schedule_costs_less(seed):
    generator = torch.Generator().manual_seed(seed)
    damage = torch.rand(STEPS, GAPS, GAPS + 2, GAPS + 2, generator=generator)
    plans = {len(plan.schedule): plan for plan in _solve(damage, (0, 0.0))}
    for number in range(1, STEPS + 1):
        rest = itertools.combinations(range(1, STEPS), number - 1)
        least = min(cost_of(damage, (0, *others)) for others in rest)
        if math.isinf(least):
            assert number not in plans
            continue
        assert plans[number].error == pytest.approx(math.sqrt(least), rel=1e-5)
        assert cost_of(damage, plans[number].schedule.computed) == pytest.approx(least, rel=1e-5)


def test_computing_everything_costs_nothing():
    damage = torch.ones(STEPS, GAPS, GAPS + 2, GAPS + 2)
    last = _solve(damage, (2, 0.5))[-1]
    assert last.schedule.computed == tuple(range(STEPS))
    assert last.schedule.setting == (2, 0.5)
    assert last.error == 0.0


@pytest.mark.parametrize("order", [0, 1, 2])
def test_damage_is_the_policys_own_over_all_gates(order):
    policy = random_policy(sites=("attn", "ff"))
    damage = step_damage(policy, [0.1 * (index + 1) for index in range(STEPS)], order, GAPS, 0.4)
    assert damage.shape == (STEPS, GAPS, GAPS + 2, GAPS + 2)
    progress = 4 / (STEPS - 1)
    seen = {
        "log_snr": math.log(0.5),
        "progress": progress,
        "log_progress": math.log(progress + 0.02),
        "log_remaining": math.log(1.02 - progress),
        "log_gap": math.log(2),
        "log_span": math.log(3),
        "log_span_before": math.log(1),
        "order": float(order),
        "feedback": 0.4,
    }
    gates = [seen | {"depth": depth, "site_code": site} for site in (0, 1) for depth in (0, 0.5, 1)]
    features = torch.tensor([[gate[name] for name in SCHEDULE] for gate in gates])
    expected = policy(features).exp().sum()
    torch.testing.assert_close(damage[4, 1, 3, 1], expected)


def test_layers_that_look_alike_are_judged_once():
    blind = tuple(name for name in SCHEDULE if name != "depth")
    snrs = [1.0] * STEPS
    one = step_damage(random_policy(blind), snrs, 1, GAPS)
    seeing = random_policy((*blind, "depth"))
    with torch.no_grad():
        for network, other in zip(seeing.networks, random_policy(blind).networks, strict=True):
            for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
                mine.zero_()
                mine[tuple(slice(0, size) for size in theirs.shape)] = theirs
    torch.testing.assert_close(step_damage(seeing, snrs, 1, GAPS), one)


def test_order_is_no_more_than_the_computations_allow():
    features = ("order",)
    policy = random_policy(features)
    damage = step_damage(policy, [1.0] * STEPS, 2, GAPS)
    of_order = 3 * policy(torch.arange(3.0)[:, None]).detach().exp()
    # Kernels round a row differently in a batch of another number of rows.
    is_of = torch.isclose(damage[3, 0, ..., None], of_order, atol=0.0, rtol=1e-5)
    assert (is_of.sum(dim=-1) == 1).all()
    assert is_of.flatten(0, -2).any(dim=0).all()
    assert is_of[0].any(dim=0).sum() == 1


@pytest.mark.parametrize("order", [0, 1, 2])
def test_plans_keep_to_spans_like_those_before_where_forecasts_read_them(order):
    steps, stretch = 12, 1.8
    plans = plan_steps(random_policy(), [1.0] * steps, order, 6, stretch)
    free = plan_steps(random_policy(), [1.0] * steps, order, 6)
    assert plans[-1].schedule.computed == tuple(range(steps))
    if not order:
        assert plans == free
        return
    for plan in plans:
        for stale in set(range(steps)) - set(plan.schedule.computed):
            last, span, before = spans_behind(plan.schedule.computed, stale)
            assert not span or stale - last <= stretch * span
            assert not before or max(span, before) <= stretch * min(span, before)


def test_a_policy_that_measures_cannot_plan():
    with pytest.raises(ValueError, match=r"known before a run. Got \['entropy'\]"):
        plan_steps(random_policy(("entropy", "log_gap")), [1.0] * STEPS, 0, GAPS)


@pytest.mark.parametrize(("stretch", "computed"), [(0.5, (0, 4)), (0.49, None)])
def test_a_gap_at_the_explored_limit_is_planned(stretch, computed):
    """The schedule 0, 4 is the only one of two computations in 7 steps with gaps up to 3 that ends
    with a gap of at most half its span."""
    plans = plan_steps(random_policy(), [1.0] * 7, 1, 3, stretch)
    found = {len(plan.schedule): plan.schedule.computed for plan in plans}
    assert found.get(2) == computed
