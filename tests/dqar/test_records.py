from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.records import FEATURE_SETS, FEATURES, SITES, DecisionReason, GateDecision, Step


def test_feature_names_are_unique_and_sets_are_drawn_from_them():
    assert len(set(FEATURES)) == len(FEATURES)
    assert all(set(names) <= set(FEATURES) for names in FEATURE_SETS.values())
    assert FEATURE_SETS["full"] == FEATURES
    assert len(FEATURE_SETS["seed"]) == 5


def test_reuse_is_reason_zero_and_labels_are_lower_case():
    assert DecisionReason.REUSE == 0
    assert [reason.label for reason in DecisionReason] == [
        reason.name.lower() for reason in DecisionReason
    ]


@given(total=st.integers(1, 100), data=st.data())
def test_progress_runs_from_zero_to_one(total, data):
    index = data.draw(st.integers(0, total - 1))
    step = Step(index=index, total=total, timestep=1.0, snr=1.0)
    assert 0.0 <= step.progress <= 1.0
    assert Step(index=0, total=total, timestep=1.0, snr=1.0).progress == 0.0
    assert Step(index=total - 1, total=total, timestep=1.0, snr=1.0).progress == float(total > 1)


@pytest.mark.parametrize(("index", "total"), [(-1, 3), (3, 3), (0, 0)])
def test_step_outside_its_run_is_refused(index, total):
    with pytest.raises(ValueError, match=r"index must be in \[0, total\)"):
        Step(index=index, total=total, timestep=1.0, snr=1.0)


@given(snr=st.floats(0.0, math.inf))
def test_log_snr_is_finite(snr):
    assert math.isfinite(Step(index=0, total=1, timestep=1.0, snr=snr).log_snr)


def test_log_snr_of_an_ordinary_step():
    assert Step(index=0, total=1, timestep=1.0, snr=2.5).log_snr == pytest.approx(math.log(2.5))


def test_records_are_frozen(make_inputs):
    inputs = make_inputs()
    with pytest.raises(dataclasses.FrozenInstanceError):
        inputs.gap = inputs.gap + 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        inputs.step.index = 3


def test_every_feature_is_a_column(make_inputs):
    inputs = make_inputs(num_sites=2)
    columns = inputs.columns(FEATURES)
    assert columns.shape == (*inputs.shape, len(FEATURES))
    assert columns.dtype == torch.float32
    assert columns.isfinite().all()


def test_columns_come_in_the_order_asked_for(make_inputs):
    inputs = make_inputs(num_sites=2)
    both = inputs.columns(FEATURES)
    for place, name in enumerate(FEATURES):
        assert torch.equal(inputs.columns((name,))[..., 0], both[..., place]), name


def column(inputs, name):
    return inputs.columns((name,))[..., 0]


def test_columns_hold_what_their_names_say(make_inputs):
    inputs = make_inputs(
        num_sites=2,
        gap=torch.full((6, 2), 4),
        span=torch.zeros(6, 2, dtype=torch.long),
        span_before=torch.full((6, 2), 3),
        order=torch.full((6, 2), 2),
        drift=torch.zeros(6, 2),
        feedback=torch.full((2,), 0.5),
    )
    first = {name: column(inputs, name)[5, 1].item() for name in FEATURES}
    assert first == pytest.approx(
        {
            "entropy": 1.0,
            "log_snr": 0.0,
            "log_latent_norm": 2.0,
            "progress": 5 / 9,
            "prompt_length": 16 / 128,
            "depth": 1.0,
            "site_code": SITES.index("ff"),
            "log_gap": math.log(4),
            "log_span": math.log(0.5),
            "log_drift": math.log(1e-4),
            "share_attn": 0.25,
            "share_ff": 0.75,
            "quant_error": 0.01,
            "log_progress": math.log(5 / 9 + 0.02),
            "log_remaining": math.log(4 / 9 + 0.02),
            "log_span_before": math.log(3),
            "order": 2.0,
            "feedback": 0.5,
        },
        abs=1e-6,
    )


def test_depth_runs_from_zero_to_one(make_inputs):
    assert make_inputs(num_layers=5).depth.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert make_inputs(num_layers=1).depth.tolist() == [0.0]


def test_decision_reuses_where_its_reason_is_reuse():
    decision = GateDecision(reason=torch.tensor([[0, 1], [11, 0]], dtype=torch.uint8))
    assert decision.reuse.tolist() == [[True, False], [False, True]]
