"""Reuse of whole blocks: the residual is cached, and norms and modulation are skipped."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import silu

from dqar.config import DQARConfig
from dqar.gates.base import AllOf, Gate
from dqar.gates.rules import Interval, MaskGate, NeverReuse
from dqar.records import FEATURES, DecisionReason

TOKENS, WIDTH = 16, 16
NULL = 10
"""Label of the null class; both guidance branches of such a sample are equal."""
ROUNDING = 1e-5
"""Relative L2 distance within which two orders of the same float32 sums stay over a run."""
INSIDE = ("norm1", "attn1", "norm3", "ff")
"""The modules that a block runs."""

by_branches = pytest.mark.parametrize("branch_mode", ["tied", "independent"])


def whole(**changes: Any) -> DQARConfig:
    values: dict[str, Any] = {"sites": ("block",), "quantization_bits": 32}
    return DQARConfig(**(values | changes))


def refusing(rig) -> Gate:
    """A gate that refuses everything, for a reason that allows sharing between branches."""
    return MaskGate(torch.zeros(rig.steps, 1, 1, dtype=torch.bool))


class Counted:
    """The numbers of rows with which the modules of the second block are called."""

    def __init__(self, model: Any) -> None:
        self._rows: dict[str, list[int]] = {name: [] for name in INSIDE}
        for name, rows in self._rows.items():
            getattr(model.transformer_blocks[1], name).register_forward_hook(
                lambda module, args, output, rows=rows: rows.append(len(args[0]))
            )

    @property
    def rows(self) -> list[int]:
        """Number of rows of each call, equal for all modules."""
        first, *others = self._rows.values()
        assert all(other == first for other in others)
        return first


def watch_residuals(model: Any) -> list[torch.Tensor]:
    """Record the residual of the second block at each call, by hooks."""
    residuals: list[torch.Tensor] = []
    model.transformer_blocks[1].register_forward_hook(
        lambda module, args, output: residuals.append(output - args[0])
    )
    return residuals


# Closed gates.


@by_branches
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("exposure", [False, True])
def test_closed_gates_are_bit_identical(rig, branch_mode, guidance, exposure):
    stock = rig.sample(guidance=guidance)
    config = whole(branch_mode=branch_mode, quantization_bits=8)
    for gate in (NeverReuse(), refusing(rig)):
        # A run of the rig measures every feature; a plain wrapper does so in exposure only.
        ran = rig.run(config, gate, exposure=exposure, guidance=guidance)
        assert torch.equal(ran.latents, stock)
        assert ran.features.isfinite().all()
        wrapper = rig.wrap(config, gate, exposure=exposure)
        assert torch.equal(rig.sample(wrapper, guidance=guidance), stock)
        assert wrapper.controller.summary().by_site == {"block": 0}
        wrapper.unpatch()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_bit_identical_and_stays_itself(rig, dtype, distance):
    rig.model.to(dtype)
    rig.noise = rig.noise.to(dtype)
    stock, script = rig.sample(), MaskGate(rig.mask(whole()))
    for exposure in (False, True):
        assert torch.equal(rig.run(whole(), NeverReuse(), exposure=exposure).latents, stock)
    by_hand, reused = rig.sample(Stale(rig.model, 2)), rig.run(whole(), Interval(2)).latents
    assert reused.dtype == dtype
    assert distance(reused.float(), by_hand.float()) < 1e-2
    # Computed rows get the block's output itself; hidden states plus residual would round.
    exposed, skipped = rig.run(whole(), script, exposure=True), rig.run(whole(), script)
    assert distance(skipped.latents.float(), exposed.latents.float()) < 1e-4


# The reference: a loop over the blocks in plain torch.


class Stale:
    """A model that runs its blocks at every ``period``-th call, else adds their last residuals."""

    def __init__(self, model: Any, period: int) -> None:
        self.model, self.config, self.period = model, model.config, period
        self.calls, self.residuals = 0, {}

    def __call__(self, rows, *, timestep, class_labels):
        hidden = self.model.pos_embed(rows)
        for layer, block in enumerate(self.model.transformer_blocks):
            if self.calls % self.period == 0:
                output = block(hidden, timestep=timestep, class_labels=class_labels)
                self.residuals[layer] = output - hidden
            hidden = hidden + self.residuals[layer]
        self.calls += 1
        return SimpleNamespace(sample=self.head(hidden, timestep, class_labels))

    def head(self, hidden, timestep, labels):
        """Predict the noise from the last block's output."""
        model = self.model
        embed = model.transformer_blocks[0].norm1.emb
        embedded = embed(timestep, labels, hidden_dtype=hidden.dtype)
        shift, scale = model.proj_out_1(silu(embedded)).chunk(2, dim=1)
        patches = model.proj_out_2(model.norm_out(hidden) * (1 + scale[:, None]) + shift[:, None])
        return patches.view(-1, 4, 4, 2, 2, 1).permute(0, 5, 1, 3, 2, 4).reshape(-1, 1, 8, 8)


@pytest.mark.parametrize("period", [1, 2, 3])
def test_reuse_is_the_hand_written_loop(rig, period, distance):
    by_hand = rig.sample(Stale(rig.model, period))
    ran = rig.run(whole(), Interval(period))
    assert distance(ran.latents, by_hand) < ROUNDING
    assert (distance(by_hand, rig.sample()) > 1e-3) is (period > 1)
    assert ran.summary.by_site == {"block": ran.summary.reused}
    assert ran.summary.reuse_ratio == pytest.approx(1 - 1 / period)


# What is computed.


def test_reused_block_runs_nothing(rig):
    counted = Counted(rig.model)
    rig.sample(rig.wrap(whole(), AllOf()))
    assert counted.rows == [2 * rig.samples]


@by_branches
def test_only_the_rows_asked_for_are_computed(rig, branch_mode):
    config = whole(branch_mode=branch_mode)
    mask = rig.mask(config)
    mask[2], mask[3] = True, False
    counted = Counted(rig.model)
    rig.run(config, MaskGate(mask))
    computed = (~mask[:, 1]).sum(dim=1) * (2 if branch_mode == "tied" else 1)
    computed[0] = 2 * rig.samples
    assert counted.rows == [rows for rows in computed.tolist() if rows]


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


def test_one_timestep_may_stand_for_all_rows(rig):
    arguments = {"class_labels": rig.labels, "return_dict": False}
    mask = torch.tensor([[[False] * 3] * 3, [[True, False, False]] * 3])
    rig.scheduler.set_timesteps(2)
    found = []
    for rows in (1, 3):
        timesteps = [timestep.expand(rows) for timestep in rig.scheduler.timesteps]
        wrapper = rig.wrap(whole(), MaskGate(mask))
        with wrapper.run(rig.scheduler, num_branches=1):
            found.append([wrapper(rig.noise, timestep=t, **arguments) for t in timesteps])
        wrapper.unpatch()
    torch.testing.assert_close(*found)


# Exposure.


@by_branches
# Computing only some rows changes the last bit of a float, which may change one int8 code.
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


def test_local_error_is_that_of_the_residual(rig):
    counted, residuals = Counted(rig.model), watch_residuals(rig.model)
    ran = rig.run(whole(), NeverReuse(), exposure=True)
    assert counted.rows == [2 * rig.samples] * rig.steps
    for step in range(1, rig.steps):
        stale, fresh = residuals[step - 1].flatten(1), residuals[step].flatten(1)
        by_row = (stale - fresh).norm(dim=1) / fresh.norm(dim=1)
        torch.testing.assert_close(
            ran.local_errors[step, 1], by_row.view(2, -1).mean(dim=0), atol=1e-4, rtol=1e-4
        )


# Features.


def test_entropy_is_that_of_the_attention_within(rig):
    entropy = FEATURES.index("entropy")
    found = rig.run(whole(), NeverReuse()).features[..., entropy]
    attention = rig.run(rig.config(sites=("attn",)), NeverReuse()).features[..., entropy]
    assert torch.equal(found, attention)
    assert found[1:].min() > 0


def test_shares_count_whole_blocks_as_both_parts(rig):
    ran = rig.run(whole(), MaskGate(rig.mask(whole())))
    for before, record in zip(ran.records, ran.records[1:], strict=False):
        expected = before.decision.reuse.float().mean(dim=0)
        torch.testing.assert_close(record.inputs.share_attn, expected)
        torch.testing.assert_close(record.inputs.share_ff, expected)


# The cache.


@pytest.mark.parametrize("bits", [8, 4])
def test_bytes_are_the_arithmetic(rig, bits, distance):
    exact = rig.run(whole(), Interval(2)).latents
    ran = rig.run(whole(quantization_bits=bits), Interval(2))
    a_row = TOKENS * WIDTH * bits // 8 + 4
    assert ran.summary.cache_bytes == rig.layers * 2 * rig.samples * a_row
    assert 0 < distance(ran.latents, exact) < (0.01 if bits == 8 else 0.1)


# Sharing between branches.


def test_unconditional_rows_take_the_conditional_residual(rig):
    counted, residuals = Counted(rig.model), watch_residuals(rig.model)
    ran = rig.run(whole(cross_branch_threshold=math.inf), refusing(rig))
    assert counted.rows == [6, 3, 3, 3, 3, 3]
    pairs = [residual.chunk(2) for residual in residuals]
    apart = [(cond - uncond).abs().max().item() for cond, uncond in pairs]
    assert apart[0] > 0.1
    assert max(apart[1:]) < ROUNDING
    assert ran.summary.shared_by_site == {"block": 5 * rig.layers * rig.samples}


def test_one_batch_may_share_reuse_and_compute(rig, distance):
    rig.labels = torch.tensor([NULL, 4, 7])
    mask = torch.zeros(rig.steps, rig.layers, rig.samples, dtype=torch.bool)
    mask[1::2, :, 2] = True
    counted = Counted(rig.model)
    ran = rig.run(whole(cross_branch_threshold=1e-4), MaskGate(mask))
    assert counted.rows == [6, 3, 5, 3, 5, 3]
    shared, computed, reused = ran.reasons[1:].unbind(dim=2)
    assert (shared == DecisionReason.SHARED).all()
    assert (computed == DecisionReason.SCRIPT).all()
    assert torch.equal(reused == DecisionReason.REUSE, mask[1:, :, 2])
    # Equal branches lose nothing by being shared.
    unshared = rig.run(whole(), MaskGate(mask))
    assert distance(ran.latents, unshared.latents) < ROUNDING
