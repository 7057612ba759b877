from __future__ import annotations

import pytest
import torch

from dqar.control.summary import summarize
from dqar.gate_table import GateTable
from dqar.records import DecisionReason

R, C, S = int(DecisionReason.REUSE), int(DecisionReason.COLD), int(DecisionReason.SNR)
SHARED = int(DecisionReason.SHARED)


def step_of(*gates: list[int]) -> torch.Tensor:
    return torch.tensor(gates, dtype=torch.uint8)


def two_steps():
    # Two sites, two layers and two samples: 8 decisions in each of two steps.
    cold = step_of([C, C], [C, C], [C, C], [C, C])
    return [cold, step_of([R, S], [R, R], [S, S], [S, R])]


def test_counts_by_every_axis():
    summary = summarize(two_steps(), GateTable.regular(("attn", "ff"), 2), 123)
    assert (summary.gates, summary.reused, summary.cache_bytes) == (16, 4, 123)
    assert summary.by_reason == {"reuse": 4, "cold": 8, "snr": 4}
    assert summary.by_site == {"attn": 3, "ff": 1}
    assert summary.by_layer == [1, 3]
    assert summary.by_step == [0, 4]
    assert summary.reasons_by_step == [{"cold": 8}, {"reuse": 4, "snr": 4}]
    assert summary.reasons_by_layer == [
        {"reuse": 1, "cold": 4, "snr": 3},
        {"reuse": 3, "cold": 4, "snr": 1},
    ]


def test_shared_branches_are_counted_apart_from_reuse():
    steps = [step_of([C, C]), step_of([SHARED, S]), step_of([SHARED, SHARED])]
    summary = summarize(steps, GateTable.regular(("attn",), 1), 0)
    assert (summary.reused, summary.shared_by_site) == (0, {"attn": 3})
    assert summary.note == "0 of 6 gates reused (0.0%), 3 shared between branches."


def test_ratio_counts_the_first_step():
    summary = summarize(two_steps(), GateTable.regular(("attn", "ff"), 2), 0)
    assert summary.reuse_ratio == pytest.approx(4 / 16)
    assert summary.note == "4 of 16 gates reused (25.0%)."


def test_run_that_never_reused_says_so():
    summary = summarize(two_steps()[:1], GateTable.regular(("attn", "ff"), 2), 0)
    assert summary.note == "No gate reused: 8 asked, all refused (cold 8)."


def test_run_without_steps_is_empty():
    summary = summarize([], GateTable.regular(("attn",), 2), 0)
    assert (summary.gates, summary.reused, summary.reuse_ratio) == (0, 0, 0.0)
    assert (summary.by_layer, summary.by_step, summary.by_reason) == ([0, 0], [], {})
    assert summary.note == "No step ran under this controller."


def test_reuses_are_counted_by_what_they_showed():
    orders = [torch.zeros(4, 2).long(), torch.tensor([[0, 2], [1, 1], [2, 2], [0, 2]])]
    summary = summarize(two_steps(), GateTable.regular(("attn", "ff"), 2), 0, orders)
    assert summary.actions_by_site == {"attn": {"reuse": 1, "forecast1": 2}, "ff": {"forecast2": 1}}
    plain = summarize(two_steps(), GateTable.regular(("attn", "ff"), 2), 0)
    assert plain.actions_by_site == {"attn": {"reuse": 3}, "ff": {"reuse": 1}}
