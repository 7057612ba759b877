"""Salience balance factors measured on an unpatched model, and the errors of balanced caches."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from dqar.cache.salience_balancing import balance_factors, calibrated_salience
from dqar.gates.rules import Interval
from dqar.integration import (
    DQARDDIMSampler,
    DQARDPMSolverSampler,
    DQARSampler,
    SamplerConfig,
    calibrate_balance,
)
from dqar.records import PartKey

PARTS = [("attn", "keys"), ("attn", "values"), ("attn", "output"), ("ff", "output")]
WIDTH = 16


def calibrated(rig, kind: type[DQARSampler] = DQARDDIMSampler):
    sampler = kind(rig.model, rig.scheduler, SamplerConfig(num_inference_steps=rig.steps))
    return calibrate_balance(sampler, rig.labels, latents=rig.noise)


def give_outlier(rig) -> None:
    """Multiply one channel of V by fifty, and divide the output projection's column by fifty."""
    for block in rig.model.transformer_blocks:
        block.attn1.to_v.weight[3] *= 50.0
        block.attn1.to_v.bias[3] *= 50.0
        block.attn1.to_out[0].weight[:, 3] /= 50.0


def test_every_part_of_every_layer_has_factors(rig):
    found = calibrated(rig)
    expected = {PartKey(site, layer, part) for (site, part), layer in product(PARTS, range(3))}
    assert found.keys() == expected
    for factors in found.values():
        assert factors.shape == (WIDTH,)
        assert factors.isfinite().all()
        assert factors.min() > 0
        assert factors.log().mean().item() == pytest.approx(0.0, abs=1e-5)


def test_model_is_left_as_it_was(rig, patches):
    stock = rig.sample()
    weights = {name: value.clone() for name, value in rig.model.state_dict().items()}
    calibrated(rig)
    assert patches(rig.model) == []
    assert all(torch.equal(rig.model.state_dict()[name], value) for name, value in weights.items())
    assert torch.equal(rig.sample(), stock)


def test_run_that_breaks_off_leaves_no_hooks(rig, patches):
    rig.labels = torch.tensor([1, 4, 99])
    with pytest.raises(IndexError):
        calibrated(rig)
    assert patches(rig.model) == []


def test_patched_model_is_refused(rig):
    sampler = DQARDDIMSampler(rig.wrap(rig.config()), rig.scheduler)
    with pytest.raises(ValueError, match=r"must see the stock model\. Got DQARDiTWrapper"):
        calibrate_balance(sampler, rig.labels)


def test_same_noise_gives_the_same_factors(rig):
    config = SamplerConfig(num_inference_steps=rig.steps)
    sampler = DQARDDIMSampler(rig.model, rig.scheduler, config)
    drawn = calibrate_balance(sampler, rig.labels, generator=torch.Generator().manual_seed(11))
    given = calibrated(rig)
    assert all(torch.equal(drawn[key], given[key]) for key in given)


def peaks_of(module, found: list, part=None) -> None:
    """Record the largest magnitude of each channel at every call."""

    def note(module, args, output) -> None:
        value = output if part is None else output[part]
        found.append(value.abs().flatten(0, -2).amax(dim=0))

    module.register_forward_hook(note)


def test_factors_are_those_of_what_the_layer_computed(rig):
    block = rig.model.transformer_blocks[1]
    attention = block.attn1
    parts = {
        "query": (attention.to_q, None),
        "keys": (attention.to_k, None),
        "values": (attention.to_v, None),
        "attn": (attention, None),
        "ff": (block.ff, None),
        "attn gate": (block.norm1, 1),
        "ff gate": (block.norm1, 4),
    }
    peaks: dict[str, list] = {name: [] for name in parts}
    for name, (module, part) in parts.items():
        peaks_of(module, peaks[name], part)
    factors = calibrated(rig)
    of = {name: torch.stack(found) for name, found in peaks.items()}
    of["columns"] = attention.to_out[0].weight.abs().amax(dim=0).expand(rig.steps, -1)
    for key, own, consumer in (
        (PartKey("attn", 1, "keys"), of["keys"], of["query"]),
        (PartKey("attn", 1, "values"), of["values"], of["columns"]),
        (PartKey("attn", 1, "output"), of["attn"], of["attn gate"]),
        (PartKey("ff", 1, "output"), of["ff"], of["ff gate"]),
    ):
        expected = balance_factors(
            calibrated_salience(own, consumer), calibrated_salience(consumer, own)
        )
        torch.testing.assert_close(factors[key], expected)


def test_gates_multiply_what_the_sites_hand_out(rig):
    block = rig.model.transformer_blocks[0]
    stock = rig.sample()
    # Half the adaLN gate times twice the output gives the same product, to the bit.
    for module in (block.attn1, block.ff):
        module.register_forward_hook(lambda module, args, output: 2.0 * output)
    halves = (0.5, 1.0, 1.0, 0.5)

    def halve(module, args, output):
        normed, *gates = output
        return normed, *(half * gate for half, gate in zip(halves, gates, strict=True))

    block.norm1.register_forward_hook(halve)
    assert torch.equal(rig.sample(), stock)


def test_outlier_channel_is_made_smaller(rig):
    plain = calibrated(rig)
    give_outlier(rig)
    outlying = calibrated(rig)
    for layer in range(rig.layers):
        key = PartKey("attn", layer, "values")
        others = [channel for channel in range(WIDTH) if channel != 3]
        ratio = outlying[key] / plain[key]
        # sqrt(consumer / own) of the channel falls by 50 relative to the other channels.
        apart = (ratio[3] / ratio[others].mean()).item()
        assert apart == pytest.approx(1 / 50, rel=0.05)


@pytest.mark.parametrize("cached", ["output", "kv"])
@pytest.mark.parametrize("bits", [4, 8])
def test_balanced_run_takes_no_more_cache(rig, cached, bits):
    config = rig.config(cached=cached, quantization_bits=bits)
    balanced = rig.run(config, Interval(2), balance=calibrated(rig))
    plain = rig.run(config, Interval(2))
    assert balanced.summary == plain.summary
    assert not torch.equal(balanced.latents, plain.latents)
    assert balanced.latents.isfinite().all()


@pytest.mark.parametrize("bits", [4, 8])
def test_balance_lowers_the_error_of_a_coarse_cache_with_an_outlier(rig, bits, distance):
    give_outlier(rig)
    changes = {"cached": "kv", "sites": ("attn",)}
    exact = rig.run(rig.config(**changes), Interval(2)).latents
    coarse = rig.config(**changes, quantization_bits=bits)
    plain = rig.run(coarse, Interval(2)).latents
    balanced = rig.run(coarse, Interval(2), balance=calibrated(rig)).latents
    assert distance(balanced, exact) < 0.5 * distance(plain, exact)


# NumPy warns about the tensors that diffusers' solvers pass to NumPy functions.
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
def test_any_sampler_calibrates(rig):
    assert calibrated(rig, DQARDPMSolverSampler).keys() == calibrated(rig).keys()


def test_other_models_have_no_balance_factors(rig):
    import diffusers

    rig.model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        cross_attention_dim=16,
        sample_size=8,
        use_additional_conditions=False,
    )
    with pytest.raises(ValueError, match=r"blocks of a DiT.*Got PixArtTransformer2DModel"):
        calibrated(rig)
