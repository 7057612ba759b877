"""Reuse of a whole stack of blocks: one residual, from its entry to its exit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dqar.config import DQARConfig
from dqar.gates.base import AllOf
from dqar.gates.rules import Interval, MaskGate, NeverReuse
from dqar.records import FEATURES

ROUNDING = 1e-5
"""Relative L2 distance within which two orders of the same float32 sums stay over a run."""
by_branches = pytest.mark.parametrize("branch_mode", ["tied", "independent"])


def whole(**changes: Any) -> DQARConfig:
    values: dict[str, Any] = {"sites": ("stack",), "quantization_bits": 32}
    return DQARConfig(**(values | changes))


def rows_of(model: Any) -> list[list[int]]:
    """Record, for each block, the rows with which its attention is called."""
    rows: list[list[int]] = []
    for block in model.transformer_blocks:
        rows.append([])
        block.attn1.register_forward_hook(
            lambda module, args, output, rows=rows[-1]: rows.append(len(args[0]))
        )
    return rows


@by_branches
@pytest.mark.parametrize("exposure", [False, True])
def test_closed_gates_are_bit_identical(rig, branch_mode, exposure):
    stock = rig.sample()
    ran = rig.run(whole(branch_mode=branch_mode), NeverReuse(), exposure=exposure)
    assert torch.equal(ran.latents, stock)
    assert ran.features.isfinite().all()
    assert ran.summary.gates == rig.steps * rig.samples * (1 + (branch_mode == "independent"))


@pytest.mark.parametrize("period", [1, 2, 3])
@pytest.mark.parametrize("order", [0, 2])
def test_a_stack_is_its_blocks_together(rig, period, order, distance):
    blocks = rig.run(
        DQARConfig(sites=("block",), quantization_bits=32, forecast_order=order), Interval(period)
    )
    ran = rig.run(whole(forecast_order=order), Interval(period))
    assert distance(ran.latents, blocks.latents) < ROUNDING
    assert ran.summary.reuse_ratio == pytest.approx(1 - 1 / period)
    assert ran.summary.cache_bytes * rig.layers == blocks.summary.cache_bytes


def test_a_reused_stack_runs_nothing(rig):
    rows = rows_of(rig.model)
    rig.sample(rig.wrap(whole(), AllOf()))
    assert rows == [[2 * rig.samples]] * rig.layers


@by_branches
def test_only_the_rows_asked_for_are_computed(rig, branch_mode):
    config = whole(branch_mode=branch_mode)
    mask = rig.mask(config)
    mask[2], mask[3] = True, False
    rows = rows_of(rig.model)
    rig.run(config, MaskGate(mask))
    computed = (~mask[:, 0]).sum(dim=1) * (2 if branch_mode == "tied" else 1)
    computed[0] = 2 * rig.samples
    assert rows == [[number for number in computed.tolist() if number]] * rig.layers


@by_branches
def test_samples_of_a_mixed_batch_are_what_they_are_alone(rig, branch_mode, distance):
    config = whole(branch_mode=branch_mode)
    mask = rig.mask(config)
    together = rig.run(config, MaskGate(mask))
    for one in range(rig.samples):
        columns = [one] if branch_mode == "tied" else [one, rig.samples + one]
        alone = rig.run(config, MaskGate(mask[..., columns]), chosen=[one])
        assert distance(alone.latents, together.latents[[one]]) < ROUNDING
        torch.testing.assert_close(
            alone.features, together.features[:, :, columns], atol=1e-5, rtol=1e-5
        )


@by_branches
@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-5), (8, 1e-3)])
def test_replay_of_an_exposure_run_is_the_run(rig, branch_mode, bits, tolerance):
    config = whole(branch_mode=branch_mode, quantization_bits=bits)
    script = MaskGate(rig.mask(config))
    exposed, skipped = rig.run(config, script, exposure=True), rig.run(config, script)
    close = {"atol": tolerance, "rtol": tolerance}
    torch.testing.assert_close(exposed.features, skipped.features, **close)
    torch.testing.assert_close(exposed.latents, skipped.latents, **close)
    assert torch.equal(exposed.reasons, skipped.reasons)
    assert exposed.summary == skipped.summary


def test_entropy_is_the_mean_over_the_blocks(rig):
    entropy = FEATURES.index("entropy")
    found = rig.run(whole(), NeverReuse()).features[:, 0, :, entropy]
    blocks = rig.run(rig.config(sites=("attn",)), NeverReuse()).features[..., entropy]
    torch.testing.assert_close(found, blocks.mean(dim=1))
    assert found[1:].min() > 0


def test_rows_may_share_a_residual_between_branches(rig):
    rows = rows_of(rig.model)
    gate = MaskGate(torch.zeros(rig.steps, 1, 1, dtype=torch.bool))
    ran = rig.run(whole(cross_branch_threshold=1e9), gate)
    assert rows == [[6, 3, 3, 3, 3, 3]] * rig.layers
    assert ran.summary.shared_by_site == {"stack": 5 * rig.samples}


def test_unpatch_restores_the_model(rig, patches):
    stock = rig.sample()
    wrapper = rig.wrap(whole(), Interval(2))
    rig.sample(wrapper)
    wrapper.unpatch()
    assert patches(rig.model) == []
    assert torch.equal(rig.sample(), stock)


def test_a_run_that_failed_within_the_stack_leaves_nothing(rig):
    wrapper = rig.wrap(whole(), Interval(2))
    whole_run = rig.sample(wrapper)
    last = rig.model.transformer_blocks[-1].ff
    handle = last.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rig.sample(wrapper)
    handle.remove()
    assert torch.equal(rig.sample(wrapper), whole_run)
