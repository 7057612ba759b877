"""Operating points of a policy that decides step by step: thresholds for a ratio or an error."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqar.gates.rules import Learned
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from pipeline.methods.base import COARSE, FINE, Comparison
from pipeline.methods.calibration import CalibrationResult
from pipeline.methods.learned_gate import (
    PROBES,
    LearnedGate,
    MajoritySchedule,
    budget_point,
    first_task,
    learned_points,
    probe_thresholds,
    static_point,
    thresholds_for,
)
from tests.pipeline.made_up_answers import MadeUpSession

STEPS, GATES = 4, 8


def names(points):
    return [point.operating_point for point in points]


def threshold_of(point):
    assert isinstance(point.gate, Learned)
    return point.gate.log_threshold


def probed_by(policy):
    """Return a calibration result: reuse is a sigmoid of the threshold, the error 0.01 times it."""
    growth = torch.sigmoid(probe_thresholds(policy))
    return CalibrationResult(
        reuse_ratio=growth,
        share=torch.zeros(STEPS, GATES),
        error=0.01 * growth,
        entropies=torch.ones(1),
        snrs=[1.0] * STEPS,
    )


def test_probes_lie_around_the_policys_own_threshold():
    policy = ReusePolicy()
    probes = probe_thresholds(policy)
    torch.testing.assert_close(probes.mean(), torch.tensor(policy.spec.log_threshold))
    assert (probes.diff() > 0).all()


def test_thresholds_reach_their_ratios_on_a_smooth_curve():
    probed = torch.linspace(-9, 9, 64)
    achieved = torch.sigmoid(probed)
    ratios = (0.2, 0.5, 0.8)
    found = thresholds_for(ratios, probed, achieved)
    torch.testing.assert_close(
        torch.tensor(found).sigmoid(), torch.tensor(ratios), atol=5e-3, rtol=0
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1, width=32), min_size=64, max_size=64))
def test_thresholds_are_monotone_whatever_the_probes_saw(achieved):
    found = thresholds_for(FINE.reuse_ratios, torch.linspace(-9, 9, 64), torch.tensor(achieved))
    assert found == sorted(found)
    assert -9 <= found[0] <= found[-1] <= 9


def test_learned_points_are_named_by_threshold():
    points = learned_points("learned-x", ReusePolicy(), 50, [-1.0, 2.5])
    assert names(points) == ["log_threshold=-1.000", "log_threshold=2.500"]
    assert {point.method for point in points} == {"learned-x"}


def test_a_policys_points_forecast_as_it_was_trained():
    policy = ReusePolicy(PolicySpec(forecast_order=2))
    assert [point.forecast_order for point in learned_points("learned", policy, 50, [0.0])] == [2]
    assert first_task("learned", policy).forecast_order == 2
    assert static_point("learned", 4, torch.zeros(4, 8), 0.5, 2).forecast_order == 2


def test_a_static_point_takes_its_policys_name():
    point = static_point("learned-full", 4, torch.zeros(4, 8), 0.5)
    assert (point.method, point.steps) == ("static-full", 4)


def test_an_error_budget_is_a_threshold_too():
    policy = ReusePolicy()
    point = budget_point("learned", policy, STEPS, 0.0025, probed_by(policy))
    assert point.operating_point == "budget=0.0025"
    threshold = torch.tensor(threshold_of(point))
    torch.testing.assert_close(torch.sigmoid(threshold), torch.tensor(0.25), atol=5e-3, rtol=0)


@pytest.mark.parametrize(("budget", "end"), [(1e-9, 0), (1.0, -1)])
def test_a_budget_out_of_reach_is_an_end_of_the_probe(budget, end):
    policy = ReusePolicy()
    point = budget_point("learned", policy, STEPS, budget, probed_by(policy))
    expected = float(probe_thresholds(policy)[end])
    assert threshold_of(point) == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize("budget", [None, 0.004])
def test_a_contest_chooses_methods_and_budget(budget):
    policy = ReusePolicy(PolicySpec(forecast_order=1))
    probed = probed_by(policy)
    comparison = Comparison(
        methods=("learned", "static"),
        policies={"learned": policy},
        grid=COARSE,
        error_budget=budget,
    )
    session = MadeUpSession(
        steps=STEPS,
        comparison=comparison,
        answer=lambda tasks: {task.name: probed for task in tasks},
    )
    points = []
    for kind in (MajoritySchedule, LearnedGate):
        method = kind("learned", policy)
        method.tune(session, comparison.calibration_budget)
        points += method.points(session)
    methods = [point.method for point in points]
    assert methods.count("static") == len(COARSE.reuse_ratios)
    assert methods.count("learned") == len(COARSE.reuse_ratios) + (budget is not None)
    assert {point.forecast_order for point in points} == {1}
    assert ("budget=0.004" in names(points)) == (budget is not None)


def test_the_first_task_has_a_sample_a_threshold():
    probe = first_task("learned", ReusePolicy())
    assert (probe.name, probe.num_samples) == ("learned", PROBES)


@pytest.mark.parametrize("budget", [0.0, -0.01, float("nan"), float("inf")])
def test_budgets_must_be_positive(budget):
    with pytest.raises(ValueError, match="error_budget must be a positive number"):
        Comparison(
            methods=("learned",),
            policies={"learned": ReusePolicy()},
            grid=FINE,
            error_budget=budget,
        )


@pytest.mark.parametrize(
    ("methods", "policies"), [(("learned",), {}), (("interval",), {"learned": ReusePolicy()})]
)
def test_a_budget_without_anyone_to_spend_it_is_refused(methods, policies):
    with pytest.raises(ValueError, match="with a policy and the method learned"):
        Comparison(methods=methods, policies=policies, grid=FINE, error_budget=0.01)
