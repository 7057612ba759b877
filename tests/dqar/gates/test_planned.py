"""``ScheduleGate`` computes the steps of its plan, and refuses a run that does not fit it."""

from __future__ import annotations

import pytest
import torch

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.paper_cascade import policy_gate
from dqar.gates.planned import ScheduleGate
from dqar.gates.rules import Learned
from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy, save_policy
from dqar.policy.spec import PolicySpec

PLANS = ((0, 3), (0, 2, 4), (0, 1, 2, 3, 4, 5))
ERRORS = (0.2, 0.008, 0.0)


def planned_policy(**changes):
    values = {"steps": 6, "plans": PLANS, "plan_errors": ERRORS, "sites": ("attn",)}
    return ReusePolicy(PolicySpec(features=("log_gap",), **(values | changes)))


def computed_steps(gate, steps=6):
    controller = DQARController(DQARConfig.never(), gate=gate, num_layers=2)
    computed = []
    for step in range(steps):
        controller.begin_step(step, steps)
        if not controller.should_reuse(0):
            computed.append(step)
            for layer in range(2):
                controller.commit(layer, output=torch.zeros(1, 2, 3))
    return tuple(computed)


@pytest.mark.parametrize("plan", PLANS)
def test_the_plan_of_a_number_is_followed(plan):
    assert computed_steps(ScheduleGate(planned_policy(), len(plan))) == plan


def test_by_default_the_fastest_plan_within_the_error_budget():
    assert computed_steps(ScheduleGate(planned_policy())) == PLANS[1]
    assert planned_policy(error_budget=0.5).spec.schedule_of().computed == PLANS[0]
    assert planned_policy(error_budget=-1.0).spec.schedule_of().computed == PLANS[-1]


def test_a_policy_with_plans_is_gated_by_them():
    assert isinstance(policy_gate(planned_policy()), ScheduleGate)
    assert isinstance(policy_gate(planned_policy(plans=(), plan_errors=())), Learned)


def test_other_step_counts_are_refused():
    with pytest.raises(ValueError, match="Got one for 6, at a run of 7"):
        computed_steps(ScheduleGate(planned_policy()), steps=7)


def test_a_missing_plan_is_refused():
    with pytest.raises(ValueError, match=r"Got 5, of \[2, 3, 6\]"):
        planned_policy().spec.schedule_of(5)


def test_a_plan_is_for_all_its_sites():
    policy = planned_policy(sites=("attn", "ff"))
    with pytest.raises(ValueError, match="must fit the configuration"):
        policy.spec.refuse_misfit(("attn",), "tied", "output")
    policy.spec.refuse_misfit(("ff", "attn"), "tied", "output")


def test_plans_are_stored(tmp_path):
    save_policy(planned_policy(), tmp_path)
    assert load_policy(tmp_path).spec == planned_policy().spec


@pytest.mark.parametrize(
    "changes",
    [
        {"plans": ((1, 2),), "plan_errors": (0.1,)},
        {"plans": ((0, 2, 2),), "plan_errors": (0.1,)},
        {"plans": ((0, 6),), "plan_errors": (0.1,)},
        {"plans": ((),), "plan_errors": (0.1,)},
        {"plans": PLANS[::-1]},
        {"plan_errors": (0.1,)},
    ],
    ids=str,
)
def test_plans_that_are_none_are_refused(changes):
    with pytest.raises(ValueError, match="Train the policy again"):
        planned_policy(**changes)
