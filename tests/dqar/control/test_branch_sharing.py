"""Sharing between guidance branches: the pure rule, and sharing under manual control."""

from __future__ import annotations

import math

import pytest
import torch

from dqar.config import DQARConfig
from dqar.control.branch_sharing import BranchRows, BranchSharing
from dqar.control.controller import DQARController
from dqar.gates.base import Gate
from dqar.gates.rules import MaskGate
from dqar.records import DecisionReason, EntryKey, GateDecision


def test_sharing_takes_the_place_of_these_refusals_alone(make_inputs):
    reasons = torch.tensor([list(DecisionReason)], dtype=torch.uint8)
    shape = tuple(reasons.shape)
    inputs = make_inputs(num_layers=1, num_samples=shape[1], branch_gap=torch.zeros(shape))
    decided = BranchSharing(threshold=0.1, max_age=1).decide(inputs, GateDecision(reason=reasons))
    kept = {
        DecisionReason.REUSE,
        DecisionReason.COLD,
        DecisionReason.WARMUP,
        DecisionReason.COOLDOWN,
        DecisionReason.CLOSED,
    }
    expected = [reason if reason in kept else DecisionReason.SHARED for reason in DecisionReason]
    assert decided.reason[0].tolist() == expected


@pytest.mark.parametrize(
    ("gap", "age", "is_shared"),
    [(0.1, 3, True), (0.11, 3, False), (0.1, 4, False), (math.nan, 1, False)],
)
def test_sharing_is_bounded_by_distance_and_age(make_inputs, gap, age, is_shared):
    inputs = make_inputs(
        num_layers=1,
        num_samples=1,
        branch_gap=torch.tensor([[gap]], dtype=torch.float64),
        branch_age=torch.tensor([[age]]),
    )
    refused = GateDecision(reason=torch.tensor([[int(DecisionReason.STALE)]], dtype=torch.uint8))
    decided = BranchSharing(threshold=0.1, max_age=3).decide(inputs, refused)
    assert (decided.reason.item() == DecisionReason.SHARED) is is_shared


@pytest.mark.parametrize("order", [("cond", "uncond"), ("uncond", "cond")])
def test_donors_do_not_depend_on_the_order_of_branches(order):
    rows = BranchRows(branches=order, num_samples=2)
    shared = torch.tensor([True, False])
    conditional = 2 * order.index("cond")
    donors = rows.donors(torch.arange(4), shared)
    assert donors.tolist() == [conditional, 1, conditional, 3]
    parts = {"output": torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]}
    apart = [2.0, 1.0] if order[0] == "cond" else [2.0 / 3.0, 0.5]
    assert rows.distance(parts).tolist() == pytest.approx(apart)


# Manual control.


def by_hand(controller: DQARController, step: int, cond: torch.Tensor, uncond: torch.Tensor):
    """Run one step of one layer; return the unconditional branch's decision and output."""
    controller.begin_step(step, 4)
    assert not controller.should_reuse(0, "cond")
    controller.commit(0, "cond", output=cond)
    decision = controller.should_reuse(0, "uncond")
    if decision:
        return decision, controller.reuse(decision.entry)[2]
    controller.commit(0, "uncond", output=uncond)
    return decision, uncond


def sharing_controller(threshold: float, gate: Gate | None = None) -> DQARController:
    closed = MaskGate(torch.zeros(4, 1, 1, dtype=torch.bool))
    config = DQARConfig(cross_branch_threshold=threshold, quantization_bits=32)
    return DQARController(config, num_layers=1, gate=gate or closed)


def output_of(value: float) -> torch.Tensor:
    return torch.full((1, 2, 3), value)


def test_verbs_lend_the_conditional_value():
    controller = sharing_controller(0.5)
    first, _ = by_hand(controller, 0, output_of(1.0), output_of(1.2))
    assert first.reasons == (DecisionReason.SCRIPT,)
    second, residual = by_hand(controller, 1, output_of(2.0), output_of(2.2))
    assert second.reasons == (DecisionReason.SHARED,)
    assert second.entry == EntryKey("attn", 0, "uncond", lender="cond")
    assert residual is not None
    assert torch.equal(residual, output_of(2.0))
    assert controller.summary().by_reason == {"script": 1, "shared": 1}


def test_lent_value_counts_as_committed():
    script = torch.tensor([0, 0, 1, 0], dtype=torch.bool)[:, None, None]
    controller = sharing_controller(0.5, MaskGate(script))
    by_hand(controller, 0, output_of(1.0), output_of(1.2))
    by_hand(controller, 1, output_of(2.0), output_of(2.2))
    controller.begin_step(2, 4)
    decision = controller.should_reuse(0, "uncond")
    assert decision.reasons == (DecisionReason.REUSE,)
    residual = controller.reuse(decision.entry)[2]
    assert residual is not None
    assert torch.equal(residual, output_of(2.0))
    # A branch has its own value again after its next commit.
    third, _ = by_hand(controller, 3, output_of(4.0), output_of(4.4))
    assert third.reasons == (DecisionReason.SHARED,)


def test_verbs_lend_nothing_before_the_conditional_commit():
    controller = sharing_controller(0.5)
    by_hand(controller, 0, output_of(1.0), output_of(1.2))
    controller.begin_step(1, 4)
    decision = controller.should_reuse(0, "uncond")
    assert not decision
    assert decision.entry.lender is None


def test_verbs_lend_nothing_where_branches_are_far_apart():
    controller = sharing_controller(0.1)
    for step in range(3):
        decision, _ = by_hand(controller, step, output_of(1.0), output_of(1.2))
        assert not decision


def test_verbs_lend_nothing_where_one_sample_is_far_apart():
    """One sample has equal branches, the other one has branches that differ by a fifth."""
    closed = MaskGate(torch.zeros(4, 1, 1, dtype=torch.bool))
    config = DQARConfig(cross_branch_threshold=0.1, quantization_bits=32)
    controller = DQARController(config, num_layers=1, gate=closed)
    cond = torch.ones(2, 2, 3)
    uncond = torch.tensor([1.0, 1.2])[:, None, None].expand(2, 2, 3)
    for step in range(3):
        controller.begin_step(step, 4, num_samples=2)
        controller.commit(0, "cond", output=cond)
        decision = controller.should_reuse(0, "uncond")
        if step:
            assert set(decision.reasons) == {DecisionReason.SHARED, DecisionReason.SCRIPT}
        assert decision.entry.lender is None
        assert not any(decision.mask)
        controller.commit(0, "uncond", output=uncond)
