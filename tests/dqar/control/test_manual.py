"""Manual control: ``should_reuse``, ``commit`` and ``reuse`` for one site at a time."""

from __future__ import annotations

import pytest
import torch

from dqar.records import DecisionReason
from tests.dqar.by_hand import controller_of, output_at


def test_seeds_four_verbs_with_keys_and_values():
    controller = controller_of()
    keys, values = torch.randn(2, 1, 4, 3, generator=torch.Generator().manual_seed(0)).unbind()
    controller.begin_step(0, 4, 16)
    assert not controller.should_reuse(0, "cond")
    attn_map = torch.full((1, 2, 4, 4), 0.25)
    controller.commit(0, "cond", attn_map, keys, values, torch.zeros(1, 1, 8, 8))
    controller.begin_step(1, 4, 16)
    decision = controller.should_reuse(0, "cond")
    assert decision
    assert decision.reasons == (DecisionReason.REUSE,)
    k, v, residual = controller.reuse(decision.entry)
    torch.testing.assert_close(k, keys, rtol=0, atol=0)
    torch.testing.assert_close(v, values, rtol=0, atol=0)
    assert residual is None


def test_output_alone_comes_back_as_the_residual():
    controller = controller_of()
    controller.begin_step(0, 2)
    controller.commit(0, output=output_at(0))
    controller.begin_step(1, 2)
    k, v, residual = controller.reuse(controller.should_reuse(0).entry)
    assert (k, v) == (None, None)
    torch.testing.assert_close(residual, output_at(0), rtol=0, atol=0)


def test_eight_bits_come_back_within_half_a_scale():
    controller = controller_of(bits=8)
    keys = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    controller.begin_step(0, 2)
    controller.commit(0, keys=keys)
    back = controller.reuse(controller.should_reuse(0).entry)[0]
    half_a_scale = keys.abs().max().item() / 127 / 2
    torch.testing.assert_close(back, keys, rtol=0, atol=1.0001 * half_a_scale)


def test_first_step_is_cold():
    controller = controller_of()
    controller.begin_step(0, 4)
    assert controller.should_reuse(0).reasons == (DecisionReason.COLD,)


def test_branch_without_an_entry_is_cold():
    controller = controller_of()
    controller.begin_step(0, 4)
    controller.commit(0, "cond", output=output_at(0))
    controller.begin_step(1, 4)
    assert controller.should_reuse(0, "cond")
    assert controller.should_reuse(0, "uncond").reasons == (DecisionReason.COLD,)


def test_commit_of_nothing_is_refused():
    controller = controller_of()
    controller.begin_step(0, 4)
    with pytest.raises(ValueError, match="commit must be given something"):
        controller.commit(0, entropy=torch.ones(1))
