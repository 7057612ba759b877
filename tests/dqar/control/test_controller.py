from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.base import AllOf
from dqar.gates.paper_cascade import paper_cascade
from dqar.gates.rules import MaskGate, MaxReuses, NeverReuse, Staleness
from dqar.records import DecisionReason, GateRecord
from tests.dqar.by_hand import controller_of, output_at


def drive(controller: DQARController, steps: int) -> list[bool]:
    """Run one layer and branch under manual control; return True for each step that reused."""
    reused = []
    for step in range(steps):
        controller.begin_step(step, steps)
        decision = controller.should_reuse(0)
        if decision:
            controller.reuse(decision.entry)
        else:
            controller.commit(0, output=output_at(step))
        reused.append(bool(decision))
    return reused


def test_reuse_hands_out_the_last_commit():
    controller = controller_of(MaskGate(torch.tensor([[[False]], [[False]], [[True]]])))
    drive(controller, 3)
    residual = controller.reuse(controller.should_reuse(0).entry)[2]
    torch.testing.assert_close(residual, output_at(1), rtol=0, atol=0)


def inputs_of(controller: DQARController) -> list:
    signals: list[GateRecord] = []
    controller.sink = signals.append
    return signals


def test_map_or_entropy_reaches_the_next_steps_gates():
    controller = controller_of(NeverReuse())
    records = inputs_of(controller)
    for step in range(3):
        controller.begin_step(step, 3)
        controller.commit(0, output=output_at(step), attn_map=torch.full((1, 2, 4, 8), 1 / 8))
    controller.commit(0, output=output_at(2), entropy=torch.tensor([1.5]))
    controller.finish_step()
    found = [record.inputs.entropy.item() for record in records]
    assert found == pytest.approx([0.0, math.log(8), math.log(8)])


def test_gates_read_the_mean_entropy_of_both_branches():
    controller = controller_of(NeverReuse())
    records = inputs_of(controller)
    controller.begin_step(0, 2)
    controller.commit(0, "cond", output=output_at(0), entropy=torch.tensor([1.0]))
    controller.commit(0, "uncond", output=output_at(0), entropy=torch.tensor([3.0]))
    controller.begin_step(1, 2)
    controller.finish_step()
    assert records[1].inputs.entropy.item() == 2.0


def test_gap_span_and_budget_over_a_scripted_run():
    script = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1], dtype=torch.bool)[:, None, None]
    controller = controller_of(MaskGate(script))
    records = inputs_of(controller)
    assert drive(controller, 8) == script.flatten().tolist()
    controller.finish_step()
    signals = [record.inputs for record in records]
    assert [int(inputs.gap) for inputs in signals] == [0, 1, 2, 3, 1, 2, 1, 1]
    assert [int(inputs.reuses) for inputs in signals] == [0, 0, 1, 2, 0, 1, 0, 0]
    assert [int(inputs.span) for inputs in signals] == [0, 0, 0, 0, 3, 3, 2, 1]


@given(limit=st.integers(0, 4), steps=st.integers(1, 12))
def test_budget_and_staleness_refresh_every_so_often(limit, steps):
    expected = [step % (limit + 1) != 0 for step in range(steps)]
    assert drive(controller_of(MaxReuses(limit)), steps) == expected
    assert drive(controller_of(Staleness(limit)), steps) == expected


def test_reuse_that_was_allowed_but_not_taken_spends_no_budget():
    controller = controller_of(MaxReuses(1))
    for step in range(4):
        controller.begin_step(step, 4)
        if step == 0:
            controller.commit(0, output=output_at(0))
    assert controller.should_reuse(0)


def test_closed_run_says_that_it_never_reused():
    controller = controller_of(paper_cascade(DQARConfig.never()))
    assert not any(drive(controller, 5))
    summary = controller.summary()
    assert (summary.gates, summary.reused, summary.reuse_ratio) == (5, 0, 0.0)
    assert summary.note == "No gate reused: 5 asked, all refused (closed 5)."


def test_summary_counts_what_was_driven():
    controller = controller_of(MaxReuses(2))
    reused = drive(controller, 7)
    summary = controller.summary()
    assert summary.by_step == [int(was_reused) for was_reused in reused]
    assert summary.by_reason == {"cold": 1, "reuse": 4, "budget": 2}
    assert summary.cache_bytes == output_at(0).nbytes
    assert controller.summary() == summary


def test_step_zero_forgets_the_run_before():
    controller = controller_of()
    assert drive(controller, 4) == drive(controller, 4)
    controller.begin_step(0, 4)
    assert controller.cache.nbytes == 0
    assert not controller.should_reuse(0)
    assert controller.summary().gates == 1


def test_sink_hears_each_step_once_and_in_order():
    records: list[GateRecord] = []
    controller = controller_of(sink=records.append)
    drive(controller, 3)
    controller.finish_step()
    controller.finish_step()
    assert [record.inputs.step.index for record in records] == [0, 1, 2]
    assert all(record.local_rel_error.isnan().all() for record in records)


def test_features_that_no_gate_reads_are_not_measured():
    assert controller_of().needs == frozenset()
    assert controller_of(paper_cascade(DQARConfig())).needs == {"entropy"}
    assert "log_drift" in controller_of(sink=lambda record: None).needs


def test_prompt_lengths_may_differ_by_sample():
    controller = controller_of(NeverReuse())
    records = inputs_of(controller)
    controller.begin_step(0, 1, torch.tensor([4.0, 64.0]), num_samples=2)
    controller.finish_step()
    assert records[0].inputs.prompt_length.tolist() == [4.0, 64.0]


def test_latent_gives_the_number_of_samples():
    controller = controller_of()
    controller.begin_step(0, 2, latent=torch.ones(3, 1, 4, 4))
    assert controller.should_reuse(0).mask == (False,) * 3
    controller.begin_step(1, 2)
    assert controller.should_reuse(0).mask == (False,) * 3


def test_number_of_samples_must_stay():
    controller = controller_of()
    controller.begin_step(0, 4, num_samples=2)
    with pytest.raises(ValueError, match="number of samples must stay the same"):
        controller.begin_step(1, 4, num_samples=3)
    controller.begin_step(0, 4, num_samples=3)


def test_decision_is_true_only_where_every_sample_reuses():
    controller = controller_of(MaskGate(torch.tensor([[[True, False]]] * 2)))
    controller.begin_step(0, 2, num_samples=2)
    controller.commit(0, output=torch.ones(2, 2, 3))
    controller.begin_step(1, 2)
    decision = controller.should_reuse(0)
    assert decision.mask == (True, False)
    assert decision.reasons == (DecisionReason.REUSE, DecisionReason.SCRIPT)
    assert not decision


@pytest.mark.parametrize(
    "use",
    [
        lambda controller: controller.should_reuse(0),
        lambda controller: controller.commit(0, output=output_at(0)),
        lambda controller: controller.through(0, "attn", lambda rows: None),
        lambda controller: controller.reuse(_entry()),
    ],
    ids=["should_reuse", "commit", "through", "reuse"],
)
def test_verbs_before_the_first_step_are_refused(use):
    with pytest.raises(ValueError, match="Call begin_step first"):
        use(controller_of())


def _entry():
    controller = controller_of()
    controller.begin_step(0, 1)
    return controller.should_reuse(0).entry


def test_depth_must_be_known():
    with pytest.raises(ValueError, match="num_layers must be known"):
        controller_of(num_layers=None).begin_step(0, 4)


def test_controller_is_bound_to_one_depth():
    controller = controller_of(num_layers=None)
    controller.bind(3)
    controller.bind(3)
    with pytest.raises(ValueError, match="num_layers must be the model's"):
        controller.bind(4)


def test_step_beyond_the_run_is_refused():
    controller = controller_of()
    with pytest.raises(ValueError, match="index must be in"):
        controller.begin_step(4, 4)


def test_reuse_that_was_declined_is_no_reuse():
    controller = controller_of()
    for step in range(4):
        controller.begin_step(step, 4)
        controller.should_reuse(0)
        controller.commit(0, output=output_at(step))
    summary = controller.summary()
    assert (summary.reused, summary.by_reason) == (0, {"cold": 1, "declined": 3})


def test_summary_within_a_step_leaves_it_open():
    controller = controller_of()
    for step in range(3):
        controller.begin_step(step, 3)
        assert controller.summary().gates == step + 1
        controller.commit(0, output=output_at(step))
    assert controller.summary().by_reason == {"cold": 1, "declined": 2}


def test_verbs_after_the_last_step_are_refused():
    controller = controller_of()
    drive(controller, 2)
    controller.finish_step()
    with pytest.raises(ValueError, match="A step must be open"):
        controller.should_reuse(0)
    with pytest.raises(ValueError, match="A step must be open"):
        controller.commit(0, output=output_at(0))


def test_snr_is_the_cosine_schedules_unless_given():
    records: list[GateRecord] = []
    controller = controller_of(sink=records.append)
    for step in range(4):
        controller.begin_step(step, 4, snr=7.0 if step == 3 else None)
    controller.finish_step()
    # alpha_bar = cos(pi/2 * (1 - i/4))^2, and SNR = alpha_bar / (1 - alpha_bar) = tan(pi i/8)^2
    expected = [math.tan(math.pi * step / 8) ** 2 for step in range(3)]
    found = [record.inputs.step.snr for record in records]
    assert found == pytest.approx([*expected, 7.0], abs=1e-6)


def test_measurements_keep_no_graph():
    records: list[GateRecord] = []
    controller = controller_of(sink=records.append)
    for step in range(3):
        controller.begin_step(step, 3)
        controller.commit(0, output=output_at(step), entropy=torch.ones(1, requires_grad=True))
    controller.finish_step()
    assert not any(record.inputs.entropy.requires_grad for record in records)
    assert records[-1].inputs.entropy.item() == 1.0


def test_measurements_are_kept_on_the_device_of_the_commits():
    controller = controller_of(AllOf(NeverReuse()))
    entropy = torch.ones(1, device="meta")
    for step in range(3):
        controller.begin_step(step, 3)
        controller.commit(0, output=torch.ones(1, 2, 3, device="meta"), entropy=entropy)
    controller.finish_step()


def test_prompt_lengths_are_one_or_one_a_sample():
    controller = controller_of()
    with pytest.raises(ValueError, match="prompt_length must be one number, or one a sample"):
        controller.begin_step(0, 2, torch.tensor([16.0, 64.0]), num_samples=4)
    # A refused step is not open, so begin_step may be called again for it.
    controller.begin_step(0, 2, torch.tensor([16.0, 64.0]), num_samples=2)
    assert controller.summary().gates == 2
