"""Cached keys and values with fresh queries: results, cache bytes and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import silu

from dqar.config import DQARConfig
from dqar.gates.base import AllOf
from dqar.gates.rules import Interval, MaskGate, NeverReuse
from dqar.records import FEATURES

TOKENS, HEADS, WIDTH = 16, 2, 16
ROUNDING = 1e-5
"""Relative L2 distance within which two orders of the same float32 sums stay over a run."""


def kv(**changes: Any) -> DQARConfig:
    values: dict[str, Any] = {"cached": "kv", "sites": ("attn",), "quantization_bits": 32}
    return DQARConfig(**(values | changes))


# The reference: a DiT and its guided DDIM loop in plain torch.


def attend_by_hand(attention, query, keys, values):
    """Softmax attention that forms the whole attention map."""

    def heads(projected):
        return projected.view(len(projected), TOKENS, HEADS, -1).transpose(1, 2)

    scores = heads(query) @ heads(keys).transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
    mixed = scores.softmax(dim=-1) @ heads(values)
    return attention.to_out[0](mixed.transpose(1, 2).reshape(len(query), TOKENS, WIDTH))


def predict_by_hand(model, rows, timestep, labels, memory, refresh):
    """Predict the noise of one step; ``memory`` holds the keys and values of each layer."""
    hidden = model.pos_embed(rows)
    for layer, block in enumerate(model.transformer_blocks):
        normed, gate, shift, scale, gate_ff = block.norm1(
            hidden, timestep, labels, hidden_dtype=hidden.dtype
        )
        attention = block.attn1
        if refresh:
            memory[layer] = attention.to_k(normed), attention.to_v(normed)
        attended = attend_by_hand(attention, attention.to_q(normed), *memory[layer])
        hidden = hidden + gate[:, None] * attended
        normed = block.norm3(hidden) * (1 + scale[:, None]) + shift[:, None]
        hidden = hidden + gate_ff[:, None] * block.ff(normed)
    embedded = model.transformer_blocks[0].norm1.emb(timestep, labels, hidden_dtype=hidden.dtype)
    shift, scale = model.proj_out_1(silu(embedded)).chunk(2, dim=1)
    patches = model.proj_out_2(model.norm_out(hidden) * (1 + scale[:, None]) + shift[:, None])
    return patches.view(-1, 4, 4, 2, 2, 1).permute(0, 5, 1, 3, 2, 4).reshape(-1, 1, 8, 8)


@torch.no_grad()
def sample_by_hand(rig, period: int) -> torch.Tensor:
    labels = torch.cat([rig.labels, torch.full_like(rig.labels, 10)])
    rig.scheduler.set_timesteps(rig.steps)
    latents, memory = rig.noise, {}
    for step, timestep in enumerate(rig.scheduler.timesteps):
        rows = torch.cat([latents, latents])
        noise = predict_by_hand(
            rig.model, rows, timestep.expand(len(rows)), labels, memory, step % period == 0
        )
        cond, uncond = noise.chunk(2)
        guided = uncond + 4.0 * (cond - uncond)
        latents = rig.scheduler.step(guided, timestep, latents).prev_sample
    return latents


def test_hand_written_loop_is_the_stock_one(rig, distance):
    assert distance(sample_by_hand(rig, 1), rig.sample()) < ROUNDING


@pytest.mark.parametrize("period", [2, 3])
def test_reuse_is_the_hand_written_loop(rig, period, distance):
    by_hand = sample_by_hand(rig, period)
    assert distance(rig.run(kv(), Interval(period)).latents, by_hand) < ROUNDING
    assert distance(by_hand, rig.sample()) > 1e-3


def test_stale_keys_and_values_are_not_a_stale_output(rig, distance):
    stale_output = rig.run(rig.config(sites=("attn",)), Interval(2))
    assert distance(rig.run(kv(), Interval(2)).latents, stale_output.latents) > 1e-4


# Rows.


def test_queries_are_fresh_and_the_rest_is_not_computed(rig):
    rows = {name: [] for name in ("to_q", "to_k", "to_v")}
    attention = rig.model.transformer_blocks[1].attn1
    for name, found in rows.items():
        getattr(attention, name).register_forward_hook(
            lambda module, args, output, found=found: found.append(len(args[0]))
        )
    script = torch.ones(rig.steps, rig.layers, rig.samples, dtype=torch.bool)
    script[3, :, 1:] = False
    rig.sample(rig.wrap(kv(), MaskGate(script)))
    assert rows == {"to_q": [6] * rig.steps, "to_k": [6, 4], "to_v": [6, 4]}


@pytest.mark.parametrize("branch_mode", ["tied", "independent"])
def test_samples_of_a_mixed_batch_are_what_they_are_alone(rig, branch_mode, distance):
    config = kv(branch_mode=branch_mode)
    mask = rig.mask(config)
    together = rig.run(config, MaskGate(mask)).latents
    for one in range(rig.samples):
        columns = [one] if branch_mode == "tied" else [one, rig.samples + one]
        alone = rig.run(config, MaskGate(mask[..., columns]), chosen=[one]).latents
        assert distance(alone, together[[one]]) < ROUNDING


# What the cache holds.

GROUPS = {"per_tensor": 1, "per_channel": WIDTH, "per_head": HEADS}


@pytest.mark.parametrize("granularity", GROUPS)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_bytes_are_the_arithmetic(rig, granularity, bits, distance):
    exact = rig.run(kv(), Interval(2))
    ran = rig.run(kv(quantization_mode=granularity, quantization_bits=bits), Interval(2))
    rows = 2 * rig.samples
    one = rows * (TOKENS * WIDTH * bits // 8 + 4 * GROUPS[granularity])
    assert ran.summary.cache_bytes == rig.layers * 2 * one
    assert ran.summary.reuse_ratio == 0.5
    assert 0 < distance(ran.latents, exact.latents) < 0.5


@pytest.mark.parametrize(("bits", "size"), [(16, 2), (32, 4)])
def test_float_caches_hold_no_scales(rig, bits, size):
    ran = rig.run(kv(quantization_bits=bits), Interval(2))
    assert ran.summary.cache_bytes == rig.layers * 2 * 2 * rig.samples * TOKENS * WIDTH * size


def test_keys_may_stay_in_sixteen_bits(rig, distance):
    exact = rig.run(kv(), Interval(2)).latents
    mixed = rig.run(kv(quantization_bits=8, quantize_keys=False), Interval(2))
    rows = 2 * rig.samples
    keys, values = rows * TOKENS * WIDTH * 2, rows * (TOKENS * WIDTH + 4)
    assert mixed.summary.cache_bytes == rig.layers * (keys + values)
    assert 0 < distance(mixed.latents, exact) < 0.1


# Attentions with other arithmetic than AttnProcessor2_0.


@pytest.fixture(params=["rms_norm", "layer_norm"])
def normed_rig(rig, request):
    """A model whose queries and keys are normed by head."""
    from diffusers.models.attention_processor import Attention

    for block in rig.model.transformer_blocks:
        plain = block.attn1
        normed: Any = Attention(
            WIDTH, heads=HEADS, dim_head=WIDTH // HEADS, bias=True, qk_norm=request.param
        )
        normed.load_state_dict(plain.state_dict(), strict=False)
        for norm in (normed.norm_q, normed.norm_k):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        block.attn1 = normed
    rig.model.eval().requires_grad_(False)
    return rig


def test_normed_queries_and_keys_are_followed(normed_rig, distance):
    stock = normed_rig.sample()
    script = MaskGate(normed_rig.mask(kv()))
    closed = normed_rig.run(kv(), NeverReuse())
    assert torch.equal(closed.latents, stock)
    exposed = normed_rig.run(kv(), script, exposure=True)
    assert distance(normed_rig.run(kv(), script).latents, exposed.latents) < ROUNDING
    as_output = normed_rig.run(normed_rig.config(sites=("attn",)), NeverReuse())
    entropy = FEATURES.index("entropy")
    torch.testing.assert_close(closed.features[..., entropy], as_output.features[..., entropy])


class Doubled:
    """A custom attention processor."""

    def __call__(self, attention, hidden_states, *args, **kwargs):
        return 2.0 * attention.to_v(hidden_states)


def set_custom(attention) -> None:
    attention.set_processor(Doubled())


def set_map_keeping(attention) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    attention.set_processor(AttnProcessor())


def fuse(attention) -> None:
    attention.fuse_projections()


def add_residual(attention) -> None:
    attention.residual_connection = True


def add_norm(attention) -> None:
    attention.group_norm = torch.nn.GroupNorm(4, WIDTH)


OTHERS = [set_custom, set_map_keeping, fuse, add_residual, add_norm]
UNKNOWN = "K/V reuse must know the attention's arithmetic"


@pytest.mark.parametrize("change", OTHERS)
def test_other_arithmetic_is_refused(rig, change, patches):
    change(rig.model.transformer_blocks[1].attn1)
    with pytest.raises(ValueError, match=UNKNOWN):
        rig.wrap(kv())
    assert patches(rig.model) == []


@pytest.mark.parametrize("change", OTHERS)
def test_other_arithmetic_since_the_patch_is_refused(rig, change):
    wrapper = rig.wrap(kv(), AllOf())
    change(rig.model.transformer_blocks[1].attn1)
    with pytest.raises(ValueError, match=UNKNOWN):
        rig.sample(wrapper)


def test_output_reuse_takes_any_processor(rig):
    for block in rig.model.transformer_blocks:
        block.attn1.set_processor(Doubled())
    stock = rig.sample()
    wrapper = rig.wrap(rig.config(), NeverReuse())
    assert torch.equal(rig.sample(wrapper), stock)
