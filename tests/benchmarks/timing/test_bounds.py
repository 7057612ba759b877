"""Masks, FLOPs and bounds, with which the timing benchmarks compare their figures."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing.forced_reuse import RATIOS, least_seconds
from benchmarks.timing.support.architectures import (
    ARCHITECTURES,
    PUBLISHED,
    Architecture,
    flops_bound,
    flops_by_part,
    share_of_flops,
)
from benchmarks.timing.support.models import model_of
from benchmarks.timing.support.reuse_masks import (
    forced_steps,
    interval_steps,
    mask_of,
    ratio_of_mask,
)
from benchmarks.timing.support.timed_model import STEPS


@given(st.integers(1, 24), st.data())
def test_forced_steps_reuse_their_share(num_steps, data):
    reused = data.draw(st.integers(0, num_steps))
    steps = forced_steps(reused / num_steps, num_steps)
    assert len(steps) == num_steps
    assert sum(steps) == reused


@pytest.mark.parametrize("ratio", RATIOS)
def test_every_ratio_is_of_whole_steps(ratio):
    assert ratio_of_mask(mask_of(forced_steps(ratio, STEPS), 3, 2)) == ratio


@pytest.mark.parametrize("ratio", [0.3, -0.25, 1.25])
def test_ratios_of_part_steps_are_refused(ratio):
    with pytest.raises(ValueError, match="whole steps"):
        forced_steps(ratio, 4)


def test_interval_computes_last_of_each_period():
    assert interval_steps(3, 6) == [True, True, False] * 2
    assert interval_steps(1, 2) == [False, False]
    with pytest.raises(ValueError, match="multiple of 3"):
        interval_steps(3, 4)


def test_first_step_computes():
    mask = mask_of([True, True], 5, 2)
    assert mask.shape == (3, 5, 2)
    assert not mask[0].any()
    assert mask[1:].all()


def test_share_of_attention_in_the_largest_dit():
    # docs: 35.7% of DiT-XL/2 at 256 tokens, and 1.16 at most for a reuse of 38.7%.
    sizes = ARCHITECTURES["dit-xl-2-256"]
    assert share_of_flops(sizes, ("attn",)) == pytest.approx(0.357, abs=5e-4)
    assert flops_bound(sizes, ("attn",), 0.387) == pytest.approx(1.16, abs=5e-3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_bounds_grow_with_sites_and_reuse(name):
    sizes = ARCHITECTURES[name]
    bounds = [flops_bound(sizes, sites, 0.5) for sites in sizes.site_sets]
    assert bounds == sorted(bounds)
    assert flops_bound(sizes, ("attn",), 0.0) == 1.0


def test_nothing_left_has_no_bound():
    sizes = ARCHITECTURES["dit-s-2-256"]
    assert flops_bound(sizes, ("block",), 1.0) == math.inf
    assert flops_bound(sizes, ("attn", "ff"), 1.0) == math.inf
    assert flops_bound(sizes, ("block",), 0.5) == pytest.approx(2.0)


def counted(module, *inputs, **named) -> int:
    # FlopCounterMode does not count the fused CPU kernel; the math kernel is two counted products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        module(*inputs, **named)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["tiny-dit", "tiny-pixart"])
def test_flops_are_those_that_torch_counts(name):
    sizes = ARCHITECTURES[name]
    block = model_of(sizes, "cpu", torch.float32).transformer_blocks[0]
    hidden = torch.zeros(1, sizes.num_tokens, sizes.width)
    expected = flops_by_part(sizes)
    unit = sizes.num_tokens * sizes.width**2
    assert counted(block.attn1, hidden) == pytest.approx(expected["attn"] * unit)
    assert counted(block.ff, hidden) == pytest.approx(expected["ff"] * unit)
    if sizes.caption_length:
        caption = torch.zeros(1, sizes.caption_length, sizes.width)
        cross = counted(block.attn2, hidden, encoder_hidden_states=caption)
        assert cross == pytest.approx(expected["cross"] * unit)


def test_least_time_of_a_step():
    assert least_seconds(1.0, 0.2, 0.0) == 1.0
    assert least_seconds(1.0, 0.2, 0.5) == pytest.approx(0.6)
    assert least_seconds(1.0, 0.2, 1.0) == pytest.approx(0.2)


def test_odd_latents_are_refused():
    with pytest.raises(ValueError, match="even"):
        Architecture(num_layers=1, num_heads=1, head_dim=8, latent_size=7)
