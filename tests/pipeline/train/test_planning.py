"""Plans of a policy: choice of the forecast order and the gain, and limits of the staleness."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from dqar.policy.network import ReusePolicy
from dqar.policy.planner import plan_steps
from dqar.policy.serialization import load_policy
from dqar.policy.spec import PolicySpec
from dqar.records import ACTIONS
from dqar.snr import scheduler_snr
from pipeline.traces import read_gates
from pipeline.traces.multi_dataset import open_traces
from pipeline.train.config import TrainConfig
from pipeline.train.gate_table import ReusedGates
from pipeline.train.planning import max_stretch_of, planned
from pipeline.train.train import save_trained, train
from tests.pipeline.gate_readers import snrs_of

STEPS, MAX_GAP = 10, 4
SNRS = [0.02 * 1.8**step for step in range(STEPS)]


def settings_of(orders):
    return tuple((order, 0.0) for order in orders)


def policy_where_orders_cost(slope, of="order"):
    """Return a policy whose log damage grows with the gap and by ``slope`` per order (or gain)."""
    spec = PolicySpec(
        features=("log_gap", of),
        hidden=(),
        steps=STEPS,
        max_gap=MAX_GAP,
        num_layers=2,
        granularity="step",
        metrics={"r2": 0.5},
    )
    policy = ReusePolicy(spec)
    (linear,) = policy.networks[0].children()
    assert isinstance(linear, torch.nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[2.0, slope]]))
        linear.bias.fill_(-8.0)
    return policy


@pytest.mark.parametrize(("slope", "best"), [(-1.0, 2), (1.0, 0)])
def test_the_order_of_least_predicted_error_is_taken(slope, best):
    spec = planned(policy_where_orders_cost(slope), SNRS, settings_of((0, 1, 2))).spec
    assert (spec.forecast_order, spec.actions) == (best, ("compute", *ACTIONS[: best + 1]))


@pytest.mark.parametrize(("slope", "best"), [(-0.05, 0), (-0.8, 2)])
def test_a_higher_order_must_be_worth_it(slope, best):
    """Two orders with 5% less damage each save 5% of the error, less than the required 10%."""
    assert (
        planned(policy_where_orders_cost(slope), SNRS, settings_of((0, 1, 2))).spec.forecast_order
        == best
    )


@pytest.mark.parametrize(("slope", "best"), [(-1.0, 0.8), (1.0, 0.0)])
def test_the_gain_of_least_predicted_error_is_taken(slope, best):
    policy = policy_where_orders_cost(slope, "feedback")
    settings = tuple((0, gain) for gain in (0.0, 0.4, 0.8))
    assert planned(policy, SNRS, settings).spec.feedback == best


def test_stretch_is_what_gates_have_seen():
    names = ("log_gap", "log_span")
    gaps, spans = torch.arange(1.0, 101.0), torch.full((100,), 2.0)
    spans[50:] = 0.5  # log_span below 0: no span
    gates = ReusedGates(
        features=torch.stack([gaps.log(), spans.log()], dim=1),
        trajectory=torch.arange(100) // 50,
        squared_error=torch.ones(2),
        noise=torch.zeros(2, dtype=torch.long),
        weight=torch.ones(100),
    )
    assert max_stretch_of(gates, names) == pytest.approx(24.755, rel=1e-3)
    without_spans = gates.subset(torch.tensor([False, True]))
    assert max_stretch_of(without_spans, names) == math.inf


@pytest.mark.parametrize("order", [0, 1, 2])
def test_an_order_alone_is_taken_whatever_it_costs(order):
    policy = policy_where_orders_cost(1.0)
    spec = planned(policy, SNRS, settings_of((order,))).spec
    expected = plan_steps(policy, SNRS, order, MAX_GAP)
    assert spec.forecast_order == order
    assert spec.plans == tuple(plan.schedule.computed for plan in expected)
    assert spec.plan_errors == tuple(plan.error for plan in expected)


def test_plans_are_added_and_nothing_else_is_changed():
    policy = policy_where_orders_cost(-1.0)
    changed = planned(policy, SNRS, settings_of((0, 1)))
    spec = changed.spec
    before = ("plans", "plan_errors", "forecast_order", "feedback", "actions")
    kept = {name: getattr(policy.spec, name) for name in before}
    assert replace(spec, **kept) == policy.spec
    for name, value in policy.state_dict().items():
        assert torch.equal(changed.state_dict()[name], value)
    assert not any(weight.requires_grad for weight in changed.parameters())


def test_more_computations_are_never_predicted_to_err_more():
    spec = planned(policy_where_orders_cost(0.0), SNRS, settings_of((0,))).spec
    assert [len(plan) for plan in spec.plans] == list(range(len(spec.plans[0]), STEPS + 1))
    assert list(spec.plan_errors) == sorted(spec.plan_errors, reverse=True)
    assert spec.plan_errors[-1] == 0.0
    gaps = [late - early for plan in spec.plans for early, late in itertools.pairwise(plan)]
    assert max(gaps) <= MAX_GAP + 1


# From a collection on.


def test_snrs_are_those_of_the_sampler(traces, traces_plan, digits):
    snrs = snrs_of(str(traces))
    digits.scheduler.set_timesteps(traces_plan.steps)
    expected = [scheduler_snr(digits.scheduler, float(t)) for t in digits.scheduler.timesteps]
    assert snrs == pytest.approx(expected, rel=1e-4)
    table = read_gates(str(traces), ["step", "log_snr"]).to_pylist()
    for row in table:
        assert row["log_snr"] == pytest.approx(math.log(snrs[row["step"]]), abs=1e-5)


def test_a_trained_policy_holds_its_plans_after_a_round_trip(traces, traces_plan, tmp_path):
    config = TrainConfig(members=1)
    saved = save_trained(train(config, open_traces(traces)), tmp_path, {})
    loaded = load_policy(tmp_path)
    assert loaded.spec == saved.spec
    assert loaded.spec.forecast_order == 0
    assert loaded.spec.plans[-1] == tuple(range(traces_plan.steps))
    again = planned(loaded, snrs_of(str(traces)), settings_of((0,)))
    assert again.spec.plans == saved.spec.plans
    assert again.spec.plan_errors == pytest.approx(saved.spec.plan_errors, rel=1e-5)


def test_a_policy_that_measures_has_no_plans(traces):
    trained = train(TrainConfig(features="seed", members=1), open_traces(traces))
    assert trained.policy.spec.plans == trained.policy.spec.plan_errors == ()
