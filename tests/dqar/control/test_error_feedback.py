"""Error feedback: the correction by sample, in the controller, pipelines and planned models."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar import patch_dit_pipeline
from dqar.control.controller import DQARController
from dqar.control.error_feedback import ErrorFeedback
from dqar.gates.rules import Interval, MaskGate, NeverReuse
from dqar.integration import PlannedDiT
from dqar.schedules.export import export_plan
from dqar.schedules.serialization import load_plan, save_plan
from dqar.schedules.static_plan import StaticPlan

ROW = (2, 3)
SHARES = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.0])
masks = st.lists(st.lists(SHARES, min_size=3, max_size=3), min_size=1, max_size=12)
gains = st.floats(0.0, 1.0)


def fed(gain, outputs, shares):
    """Return the corrected outputs of a sequence of steps."""
    feedback = ErrorFeedback(gain)
    return torch.stack(
        [feedback.through(output, share) for output, share in zip(outputs, shares, strict=True)]
    )


def outputs_of(steps, rows=3):
    return torch.randn(steps, rows, *ROW, generator=torch.Generator().manual_seed(steps))


def shares_of(mask):
    """Return the shares of gates that reuse; the first step computes."""
    shares = torch.tensor(mask, dtype=torch.float64)
    shares[0] = 0.0
    return shares


@given(masks, gains)
def test_a_stretch_adds_up_to_its_trapezoid(mask, gain):
    """A stretch sums to its trapezoid with gain 1; a smaller gain adds that share of the missing
    sum. A stretch in which some gates computed is not corrected."""
    shares, outputs = shares_of(mask), outputs_of(len(mask))
    shown, stale = fed(gain, outputs, shares), shares > 0.0
    for row in range(3):
        fresh = (~stale[:, row]).nonzero()[:, 0].tolist()
        for last, now in pairwise(fresh):
            if (shares[last + 1 : now, row] < 1.0).any():
                assert torch.equal(shown[now, row], outputs[now, row])
                continue
            missing = (now - last - 1) / 2 * (outputs[last, row] + outputs[now, row])
            missing -= outputs[last + 1 : now, row].sum(dim=0)
            made_up = shown[now, row] - outputs[now, row]
            torch.testing.assert_close(made_up, gain * missing, atol=1e-5, rtol=1e-4)
        assert torch.equal(shown[stale[:, row], row], outputs[stale[:, row], row])


@given(masks, st.lists(gains, min_size=3, max_size=3))
def test_rows_are_fed_back_each_on_its_own(mask, gains):
    shares, outputs = shares_of(mask), outputs_of(len(mask))
    together = fed(torch.tensor(gains, dtype=torch.float64), outputs, shares)
    for row, gain in enumerate(gains):
        alone = fed(gain, outputs[:, row : row + 1], shares[:, row : row + 1])
        torch.testing.assert_close(together[:, row : row + 1], alone, atol=1e-5, rtol=1e-4)


@given(masks, gains)
def test_branches_of_a_sample_go_together(mask, gain):
    shares, outputs = shares_of(mask), outputs_of(len(mask), rows=6)
    shown = fed(gain, outputs, shares)
    assert torch.equal(shown[:, :3], fed(gain, outputs[:, :3], shares))
    assert torch.equal(shown[:, 3:], fed(gain, outputs[:, 3:], shares))


def test_outputs_that_reuse_got_right_need_nothing():
    """The correction is 0 where outputs are linear in the step."""
    outputs = torch.arange(9.0)[:, None, None, None].expand(9, 1, *ROW)
    shares = torch.tensor([0.0, 1, 1, 1, 0, 1, 0, 0, 1], dtype=torch.float64)[:, None]
    torch.testing.assert_close(fed(1.0, outputs, shares), outputs)


@pytest.mark.parametrize("gain", [0.0, torch.zeros(3)], ids=["one", "each"])
def test_no_gain_keeps_nothing(gain):
    feedback, output = ErrorFeedback(gain), outputs_of(1)[0]
    assert feedback.through(output, torch.zeros(3, dtype=torch.float64)) is output
    assert feedback.nbytes == 0


def test_what_is_kept_is_not_the_callers():
    feedback, outputs = ErrorFeedback(1.0), outputs_of(3)
    kept = outputs.clone()
    shares = shares_of([[0.0] * 3, [1.0] * 3, [0.0] * 3])
    for output, share in zip(outputs, shares, strict=True):
        shown = feedback.through(output, share)
        if not share.any():
            shown.zero_()
            output.zero_()
    assert torch.equal(outputs[1], kept[1])
    assert feedback.nbytes == outputs[0].nbytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_long_sum_of_half_precision_outputs_is_exact(dtype):
    """Equal outputs need no correction; a sum kept in half precision would ask for one."""
    outputs = torch.full((1002, 1, *ROW), 0.1, dtype=dtype)
    shares = torch.ones(1002, 1, dtype=torch.float64)
    shares[[0, -1]] = 0.0
    torch.testing.assert_close(fed(1.0, outputs, shares)[-1], outputs[-1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_each_precision_is_shown_in_its_own(dtype):
    outputs, shares = outputs_of(6).to(dtype), shares_of([[1.0] * 3] * 5 + [[0.0] * 3])
    shown = fed(0.5, outputs, shares)
    assert shown.dtype == dtype
    exact = fed(0.5, outputs.float(), shares)
    torch.testing.assert_close(shown.float(), exact, atol=0.02, rtol=0.02)


# In a model.

GAINS = {"one": 0.6, "each": torch.tensor([0.0, 0.3, 0.9])}
by_gains = pytest.mark.parametrize("gain", GAINS.values(), ids=GAINS)


def of_gain(gain):
    """Return changes of the configuration, and options of the controller, for a gain."""
    return ({"feedback": gain}, {}) if isinstance(gain, float) else ({}, {"feedback": gain})


def by_steps(rig, config):
    """A random mask of whole steps by sample, so that some steps compute everything."""
    mask = rig.mask(config)
    return MaskGate(mask[:, :1].expand(mask.shape))


@by_gains
@pytest.mark.parametrize("sites", [("attn",), ("attn", "ff"), ("block",)], ids="+".join)
@pytest.mark.parametrize("order", [0, 2])
def test_replay_of_an_exposure_run_is_the_run(rig, gain, sites, order):
    changes, options = of_gain(gain)
    config = rig.config(sites=sites, forecast_order=order, **changes)
    exposed = rig.run(config, by_steps(rig, config), exposure=True, **options)
    skipped = rig.run(config, by_steps(rig, config), **options)
    torch.testing.assert_close(exposed.features, skipped.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exposed.latents, skipped.latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("branch_mode", ["tied", "independent"])
def test_each_sample_has_its_own_gain(rig, branch_mode):
    gains = GAINS["each"]
    config = rig.config(branch_mode=branch_mode)
    together = rig.run(config, Interval(2), feedback=gains)
    for sample, gain in enumerate(gains.tolist()):
        alone = rig.config(branch_mode=branch_mode, feedback=gain)
        ran = rig.run(alone, Interval(2), chosen=slice(sample, sample + 1))
        torch.testing.assert_close(
            together.latents[sample : sample + 1], ran.latents, atol=1e-4, rtol=1e-4
        )


def test_gains_of_other_samples_are_refused(rig):
    with pytest.raises(ValueError, match=r"one gain a sample\. Got 2 for 3 samples"):
        rig.run(rig.config(), Interval(2), feedback=torch.zeros(2))
    for gain in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"feedback must be in \[0, 1\]"):
            rig.run(rig.config(), Interval(2), feedback=torch.tensor([0.0, gain, 0.0]))


def test_gates_see_the_gain(rig):
    ran = rig.run(rig.config(), Interval(2), feedback=GAINS["each"])
    for record in ran.records:
        assert torch.equal(record.inputs.feedback, GAINS["each"])


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_closed_gates_are_the_stock_model_to_the_bit(rig, gain):
    ran = rig.run(rig.config(feedback=gain), NeverReuse())
    assert torch.equal(ran.latents, rig.sample())


def test_feedback_changes_what_reuse_gives_and_no_gate(rig):
    without, config = rig.run(rig.config(), Interval(3)), rig.config(feedback=0.5)
    ran = rig.run(config, Interval(3))
    assert not torch.equal(ran.latents, without.latents)
    assert torch.equal(ran.reasons, without.reasons)
    held = ran.summary.cache_bytes - without.summary.cache_bytes
    # Two stored tensors of two branches: the last full output, and the sum since.
    assert held == 2 * 2 * rig.noise.nbytes


@pytest.mark.parametrize("rows", [[0], [0, 2, 4]])
def test_gates_that_decide_apart_are_not_fed_back(rig, rows):
    """A stretch whose steps compute some gates is not corrected at the next full computation."""
    mask = torch.zeros(rig.steps, 2 * rig.layers, 1, dtype=torch.bool)
    mask[1:-1, rows] = True
    config = rig.config(feedback=0.8)
    assert torch.equal(
        rig.run(config, MaskGate(mask)).latents, rig.run(rig.config(), MaskGate(mask)).latents
    )
    actions = mask[..., 0]
    plan = StaticPlan.of_mask(actions, sites=config.sites, feedback=0.8)
    planned = PlannedDiT(rig.model, plan)
    assert torch.equal(rig.sample(planned), rig.run(rig.config(), MaskGate(mask)).latents)
    planned.unpatch()


def test_a_run_forgets_the_outputs_of_the_run_before(rig):
    wrapper = rig.wrap(rig.config(feedback=0.7), Interval(4))
    assert torch.equal(rig.sample(wrapper), rig.sample(wrapper))


def test_an_output_outside_of_a_step_is_refused():
    with pytest.raises(ValueError, match="begin_step first"):
        DQARController(num_layers=1).corrected(torch.zeros(1, 1))


def test_a_stock_pipeline_is_fed_back(pipe, rig, images_of):
    stock = images_of(pipe)
    config = rig.config(feedback=0.5)
    patched = patch_dit_pipeline(pipe, config)
    gate = Interval(3)
    fed_back = images_of(patched, controller=DQARController(config, gate=gate))
    plain = images_of(patched, controller=DQARController(rig.config(), gate=gate))
    closed = images_of(patched, controller=DQARController(config, gate=NeverReuse()))
    assert not torch.equal(fed_back, plain)
    assert torch.equal(closed, stock)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.usefixtures("dynamo")
def test_a_compiled_model_is_fed_back_without_another_break(rig, graphs):
    config, gate = rig.config(feedback=0.5), Interval(3)
    uncompiled = rig.run(config, gate)
    wrapper = rig.wrap(config, gate)
    wrapper.transformer = torch.compile(rig.model, backend=graphs)
    assert torch.equal(rig.sample(wrapper), uncompiled.latents)
    assert graphs.count == 1


# As a plan.


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("sites", [("attn", "ff"), ("block",)], ids="+".join)
def test_a_planned_model_is_the_controller_to_the_bit(rig, sites, order, tmp_path):
    plan = export_plan(
        Interval(3),
        steps=rig.steps,
        sites=sites,
        num_layers=rig.layers,
        forecast_order=order,
        feedback=0.6,
    )
    save_plan(plan, tmp_path / "plan.json")
    loaded = load_plan(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded.feedback == 0.6
    ran = rig.run(rig.config(sites=sites, forecast_order=order, feedback=0.6), plan.gate())
    planned = PlannedDiT(rig.model, loaded)
    latents = [rig.sample(planned) for _ in range(2)]
    assert torch.equal(latents[0], ran.latents)
    assert torch.equal(latents[1], ran.latents)
    planned.unpatch()


def test_plans_without_feedback_are_files_as_before(tmp_path):
    mask = torch.tensor([[False], [True]])
    save_plan(StaticPlan.of_mask(mask, sites=("attn",)), tmp_path / "plan.json")
    assert "feedback" not in (tmp_path / "plan.json").read_text()


@pytest.mark.parametrize("gain", [-0.1, 1.1, float("nan")])
def test_gains_that_are_none_are_refused(rig, gain):
    with pytest.raises(ValueError, match=r"feedback must be in \[0, 1\]"):
        rig.config(feedback=gain)
    with pytest.raises(ValueError, match=r"feedback must be in \[0, 1\]"):
        StaticPlan.of_mask(torch.tensor([[False]]), sites=("attn",), feedback=gain)
