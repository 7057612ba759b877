"""Execution computes exactly the rows that do not reuse."""

from __future__ import annotations

import pytest
import torch

from dqar.config import DQARConfig
from dqar.gates.base import AllOf
from dqar.gates.rules import Interval, MaskGate, NeverReuse
from dqar.records import FEATURES


@pytest.mark.parametrize("branch_mode", ["tied", "independent"])
def test_only_the_rows_asked_for_are_computed(rig, branch_mode):
    config = rig.config(sites=("attn",), branch_mode=branch_mode)
    mask = rig.mask(config)
    mask[2], mask[3] = True, False
    counted = torch.zeros(rig.steps, rig.layers, dtype=torch.long)
    done = [0]
    for layer, block in enumerate(rig.model.transformer_blocks):

        def count(module, args, output, layer=layer):
            counted[done[0], layer] += len(args[0])

        block.attn1.to_q.register_forward_hook(count)
    wrapper = rig.wrap(config, MaskGate(mask))
    rig.sample(wrapper, on_step=lambda steps: done.__setitem__(0, steps))
    rows = (~mask).sum(dim=2) * (2 if branch_mode == "tied" else 1)
    rows[0] = 2 * rig.samples
    assert torch.equal(counted, rows)


def test_exposure_computes_every_row(rig):
    rows = []
    attention = rig.model.transformer_blocks[0].attn1
    attention.to_q.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    rig.run(rig.config(), AllOf(), exposure=True)
    assert rows == [2 * rig.samples] * rig.steps


def test_interval_refreshes_on_time(rig):
    ran = rig.run(rig.config(sites=("attn",)), Interval(3))
    whole = rig.layers * rig.samples
    assert ran.summary.by_step == [0, whole, whole, 0, whole, whole]


@pytest.mark.parametrize("cached", ["output", "kv"])
def test_entropy_is_at_most_that_of_uniform_attention(rig, cached):
    ran = rig.run(rig.config(sites=("attn",), cached=cached), NeverReuse())
    entropy = ran.features[1:, ..., FEATURES.index("entropy")]
    assert entropy.min() > 0
    assert entropy.max() <= torch.tensor(16.0).log() + 1e-5


def test_feed_forward_has_no_entropy(rig):
    ran = rig.run(rig.config(sites=("ff",)), NeverReuse())
    assert not ran.features[..., FEATURES.index("entropy")].any()


def test_entropy_of_fused_projections_is_refused(rig):
    from diffusers.models.attention_processor import FusedAttnProcessor2_0

    attention = rig.model.transformer_blocks[1].attn1
    attention.fuse_projections()
    attention.set_processor(FusedAttnProcessor2_0())
    with pytest.raises(ValueError, match=r"Got an attention that fuses its projections"):
        rig.sample(rig.wrap(DQARConfig()))


def test_paper_cascade_reuses_after_its_warmup(rig):
    wrapper = rig.wrap(DQARConfig(snr_low=0.0, snr_high=1e9, entropy_threshold=9.0))
    rig.sample(wrapper)
    summary = wrapper.controller.summary()
    assert summary.gates == rig.steps * rig.layers * rig.samples
    assert 0 < summary.reused < summary.gates
    assert summary.by_reason["warmup"] == 2 * rig.layers * rig.samples
