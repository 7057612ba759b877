"""Copies of a timed model share its weights, compute what it computes, and replay decisions."""

from __future__ import annotations

import pytest
import torch

from benchmarks.timing.forced_reuse import forced
from benchmarks.timing.gate_overhead import SITES, decide_all, mask_chosen
from benchmarks.timing.gates_closed import MOST_PAIRS, closed_pairs
from benchmarks.timing.support.architectures import ARCHITECTURES
from benchmarks.timing.support.models import build_batch, build_model
from benchmarks.timing.support.reuse_masks import ratio_of_mask
from benchmarks.timing.support.timed_model import STEPS, Schedule, TimedModel, free_sites
from dqar import DQARController
from dqar.gates.rules import MaskGate, NeverReuse

MODELS = ["tiny-dit", "tiny-pixart"]
FEATURES = ("full", "schedule")


@pytest.fixture
def timed_model_of():
    def build(name: str, **options) -> TimedModel:
        given = "cpu", torch.float32
        return TimedModel(build_model(name, *given), build_batch(name, 2, *given), **options)

    return build


@pytest.mark.parametrize("name", MODELS)
def test_copies_share_weights_and_leave_the_model_alone(timed_model_of, name):
    timed_model = timed_model_of(name)
    before = timed_model.batch.call(timed_model.model, 500.0)
    free, patched = timed_model.another(), timed_model.wrapper(("attn",)).transformer
    free_sites(free, ("attn", "ff"))
    for copy in (free, patched):
        shared = zip(timed_model.model.parameters(), copy.parameters(), strict=True)
        assert all(ours is theirs for ours, theirs in shared)
    assert torch.equal(timed_model.batch.call(timed_model.model, 500.0), before)
    assert torch.equal(timed_model.batch.call(patched, 500.0), before)
    assert not torch.equal(timed_model.batch.call(free, 500.0), before)
    assert timed_model.wrapper(("attn",)).transformer is patched


@pytest.mark.parametrize("name", MODELS)
def test_batch_holds_both_branches(name):
    sizes = ARCHITECTURES[name]
    batch = build_batch(name, 3, "cpu", torch.float32)
    assert batch.num_samples == 3
    assert batch.latents.shape == (6, 4, sizes.latent_size, sizes.latent_size)
    model = build_model(name, "cpu", torch.float32)
    assert batch.call(model, 10.0).shape == (6, 8, sizes.latent_size, sizes.latent_size)


def test_whole_blocks_compute_nothing_when_reused(timed_model_of):
    timed_model = timed_model_of("tiny-dit")
    calls = []
    block = timed_model.wrapper(("block",)).transformer.transformer_blocks[0]
    block.attn1.register_forward_hook(lambda *_: calls.append(1))
    forced(timed_model, ("block",), 0.5).run()
    assert len(calls) == 1 + STEPS // 2


def test_cache_is_weighed(timed_model_of):
    timed_model = timed_model_of("tiny-dit")
    rows, sizes = 4, ARCHITECTURES["tiny-dit"]
    values = rows * sizes.num_layers * sizes.num_tokens * sizes.width
    assert forced(timed_model, ("attn",), 0.5).run().cache_bytes == 4 * values
    halved = forced(timed_model, ("attn",), 0.5, quantization_bits=16)
    assert halved.run().cache_bytes == 2 * values


@pytest.mark.parametrize("name", MODELS)
def test_deciders_reuse_and_their_script_says_the_same(timed_model_of, name):
    timed_model = timed_model_of(name)
    decided = {found.decider.name: found for found in decide_all(timed_model, FEATURES)}
    for found in decided.values():
        assert torch.equal(mask_chosen(timed_model, MaskGate(found.mask)), found.mask)
        assert not found.mask[0].any()
    ratios = {name: ratio_of_mask(found.mask) for name, found in decided.items()}
    assert 0.0 < ratios.pop("threshold") < 1.0
    assert ratios == {"learned full": 0.5, "learned schedule": 0.5}


def test_deciders_measure_what_they_read(timed_model_of):
    timed_model = timed_model_of("tiny-dit")
    needs = {
        found.decider.name: found.decider.gate.needs for found in decide_all(timed_model, FEATURES)
    }
    assert needs["threshold"] == {"entropy"}
    assert not needs["learned schedule"]
    assert len(needs["learned full"]) == 4
    assert SITES == ("attn", "ff")


def test_closed_pairs(timed_model_of):
    timed_model = timed_model_of("tiny-dit")
    stock, closed = closed_pairs(timed_model, 5)
    assert len(stock) == len(closed) == 5
    assert [len(halves) for halves in closed_pairs(timed_model, 5, budget_s=0.0)] == [1, 1]
    with pytest.raises(ValueError, match="pairs must be in"):
        closed_pairs(timed_model, MOST_PAIRS + 1)


def test_closed_model_is_the_stock_one(timed_model_of):
    timed_model = timed_model_of("tiny-pixart")
    wrapper = timed_model.wrapper(SITES)
    controller = DQARController(timed_model.config(SITES), gate=NeverReuse())
    with wrapper.run(Schedule(1), num_branches=2, controller=controller):
        seen = timed_model.batch.call(wrapper, 999.0)
    assert torch.equal(seen, timed_model.batch.call(timed_model.model, 999.0))
    assert not controller.cache.nbytes
