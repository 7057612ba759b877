from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.control.entry_state import MEASURES, EntryState
from dqar.control.step_log import StepLog, rows_that_compute
from dqar.gate_table import GateTable
from dqar.records import SITES, DecisionReason, GateDecision, Step

CPU = torch.device("cpu")
LENGTHS = torch.full((2,), 16.0)


def decision_of(reuse: list[list[bool]]) -> GateDecision:
    mask = torch.tensor(reuse)
    return GateDecision(
        reason=torch.where(mask, DecisionReason.REUSE, DecisionReason.SCRIPT).to(torch.uint8)
    )


def step(index: int) -> Step:
    return Step(index=index, total=10, timestep=1.0, snr=1.0)


def opened(entry_state: EntryState, index: int):
    return entry_state.inputs(step(index), torch.zeros(2), LENGTHS, frozenset(MEASURES.values()))


@given(reuse=st.lists(st.booleans(), min_size=1, max_size=6), branches=st.integers(1, 3))
def test_rows_are_branch_major(reuse, branches):
    samples = [sample for sample, reused in enumerate(reuse) if not reused]
    rows = rows_that_compute(torch.tensor(reuse), branches * len(reuse))
    assert rows.samples.tolist() == samples
    assert rows.rows.tolist() == [
        branch * len(reuse) + sample for branch in range(branches) for sample in samples
    ]


def test_step_log_separates_computed_from_reused():
    step_log = StepLog(decision_of([[True, False], [True, True], [False, False]]))
    step_log.mark_reused(0)
    step_log.mark_committed(0, rows_that_compute(step_log.decision.reuse[0], 4))
    step_log.mark_reused(1)
    step_log.mark_committed(2, None)
    assert step_log.computed.tolist() == [[False, True], [False, False], [True, True]]
    assert step_log.reused.tolist() == [[True, False], [True, True], [False, False]]


def test_gate_that_was_never_asked_did_nothing():
    step_log = StepLog(decision_of([[True, False]]))
    assert not step_log.reused.any()
    assert not step_log.computed.any()
    assert step_log.local_error.isnan().all()
    assert step_log.measured == {}


def test_gate_that_was_allowed_and_computed_anyway_did_not_reuse():
    step_log = StepLog(decision_of([[True, True]]))
    step_log.mark_reused(0)
    step_log.mark_committed(0, None)
    assert not step_log.reused.any()


def test_branches_of_a_sample_share_their_mean():
    step_log = StepLog(decision_of([[False, False], [True, False]]))
    step_log.measure("entropy", 0, torch.tensor([1.0, 2.0, 3.0, 6.0]), None)
    rows = rows_that_compute(step_log.decision.reuse[1], 4)
    step_log.measure("entropy", 1, torch.tensor([5.0, 7.0]), rows)
    assert step_log.measured["entropy"].tolist() == [[2.0, 4.0], [0.0, 6.0]]


def test_branches_measured_one_by_one_end_with_the_same_mean():
    step_log = StepLog(decision_of([[False, False]]))
    step_log.measure("drift", 0, torch.tensor([1.0, 2.0]), None)
    step_log.measure("drift", 0, torch.tensor([3.0, 6.0]), None)
    assert step_log.measured["drift"].tolist() == [[2.0, 4.0]]


def test_local_error_is_nan_elsewhere():
    step_log = StepLog(decision_of([[False, False], [False, False]]))
    step_log.note_local_error(1, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert step_log.local_error[0].isnan().all()
    assert step_log.local_error[1].tolist() == [2.0, 3.0]


def test_entry_state_orders_gates_by_site():
    entry_state = EntryState(GateTable.regular(("attn", "ff"), 3), 2, CPU)
    table = entry_state.table
    assert table.layers.tolist() == [0, 1, 2, 0, 1, 2]
    assert [SITES[code] for code in table.site_codes.tolist()] == ["attn"] * 3 + ["ff"] * 3
    assert [table.index(site, 2) for site in ("attn", "ff")] == [2, 5]


def test_entry_state_of_one_site_keeps_its_code():
    entry_state = EntryState(GateTable.regular(("ff",), 2), 1, CPU)
    assert entry_state.table.site_codes.tolist() == [SITES.index("ff")] * 2


def test_new_entry_state_has_nothing_cached():
    inputs = opened(EntryState(GateTable.regular(("attn",), 2), 2, CPU), 0)
    assert not inputs.cached.any()
    assert not inputs.gap.any()
    assert not inputs.span.any()


scripts = st.lists(st.sampled_from(["compute", "reuse", "idle"]), min_size=1, max_size=9)


@given(script=scripts)
def test_gap_reuses_and_spans_are_counted(script):
    entry_state = EntryState(GateTable.regular(("attn",), 1), 2, CPU, order=torch.tensor([1, 2]))
    commits: list[int] = []
    reuses = 0
    for index, deed in enumerate(script):
        inputs = opened(entry_state, index)
        assert inputs.cached.all().item() == bool(commits)
        assert inputs.gap[0, 0] == (index - commits[-1] if commits else 0)
        assert inputs.reuses[0, 0] == reuses
        assert inputs.span[0, 0] == (commits[-1] - commits[-2] if len(commits) > 1 else 0)
        assert inputs.span_before[0, 0] == (commits[-2] - commits[-3] if len(commits) > 2 else 0)
        possible = max(0, min(2, len(commits) - 1))
        assert inputs.order[0].tolist() == [min(1, possible), possible]
        computed = torch.full((1, 2), deed == "compute")
        reused = torch.full((1, 2), deed == "reuse")
        entry_state.close_step(step(index), computed, reused, {})
        commits += [index] if deed == "compute" else []
        reuses = 0 if deed == "compute" else reuses + (deed == "reuse")


def test_gate_inputs_do_not_change_after_their_step():
    entry_state = EntryState(GateTable.regular(("attn",), 1), 2, CPU)
    inputs = opened(entry_state, 0)
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    entry_state.close_step(step(0), everywhere, ~everywhere, {"entropy": torch.ones(1, 2)})
    assert not inputs.cached.any()
    assert not inputs.entropy.any()
    assert opened(entry_state, 1).entropy.all()


def test_measurement_stays_where_nothing_was_computed():
    entry_state = EntryState(GateTable.regular(("attn",), 1), 2, CPU)
    computed = torch.tensor([[True, False]])
    entry_state.close_step(step(0), computed, ~computed, {"entropy": torch.full((1, 2), 3.0)})
    assert opened(entry_state, 1).entropy.tolist() == [[3.0, 0.0]]


def test_shares_are_those_of_the_previous_step_by_site():
    entry_state = EntryState(GateTable.regular(("attn", "ff"), 2), 2, CPU)
    reused = torch.tensor([[True, False], [True, False], [True, False], [False, False]])
    entry_state.close_step(step(0), ~reused, reused, {})
    inputs = opened(entry_state, 1)
    assert inputs.share_attn.tolist() == [1.0, 0.0]
    assert inputs.share_ff.tolist() == [0.5, 0.0]


def test_share_of_a_site_that_is_not_reused_is_zero():
    entry_state = EntryState(GateTable.regular(("attn",), 1), 2, CPU)
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    entry_state.close_step(step(0), ~everywhere, everywhere, {})
    assert opened(entry_state, 1).share_attn.tolist() == [1.0, 1.0]
    assert opened(entry_state, 1).share_ff.tolist() == [0.0, 0.0]


def test_a_reused_block_counts_as_reused_attention_and_feed_forward():
    entry_state = EntryState(GateTable.regular(("block",), 2), 2, CPU)
    reused = torch.tensor([[True, False], [True, True]])
    entry_state.close_step(step(0), ~reused, reused, {})
    inputs = opened(entry_state, 1)
    assert inputs.share_attn.tolist() == inputs.share_ff.tolist() == [1.0, 0.5]


def test_distance_between_branches_has_an_age_of_its_own():
    """The first sample is compared at steps 0 and 2, the second one at step 0 only, although it
    computes at step 2."""
    entry_state = EntryState(GateTable.regular(("attn",), 1), 2, CPU)
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    first = torch.tensor([[True, False]])
    measured = {"branch_gap": torch.tensor([[0.5, 0.25]])}
    entry_state.close_step(step(0), everywhere, ~everywhere, measured, everywhere)
    entry_state.close_step(step(1), ~everywhere, everywhere, {})
    again = {"branch_gap": torch.tensor([[0.75, 0.0]])}
    entry_state.close_step(step(2), everywhere, ~everywhere, again, first)
    inputs = entry_state.inputs(step(4), None, LENGTHS, frozenset({"branch_gap"}))
    assert inputs.branch_age.tolist() == [[2, 4]]
    assert inputs.branch_gap.tolist() == [[0.75, 0.25]]
