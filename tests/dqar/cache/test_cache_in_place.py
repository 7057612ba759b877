"""Cache entries keep their addresses, and tensors that a caller owns never change later."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dqar.cache.cache import ReuseCache
from dqar.cache.quantization import CacheFormat, quantize
from dqar.cache.site_tensors import Fresh
from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.base import AllOf, Gate
from dqar.gates.rules import Interval, MaskGate
from dqar.records import EntryKey

KEY, OTHER = EntryKey("attn", 3, "cond"), EntryKey("attn", 3, "uncond")
BIT_WIDTHS = [2, 4, 8, 16, 32]
every_width = pytest.mark.parametrize("bits", BIT_WIDTHS)


def cache_of(bits: Any) -> ReuseCache:
    return ReuseCache(DQARConfig(quantization_bits=bits).cache_formats(num_heads=None))


def random_output(seed: int, rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, 5, 6, generator=torch.Generator().manual_seed(seed))


def addresses(cache: ReuseCache) -> dict[tuple[EntryKey, str], tuple[int, ...]]:
    return {
        (key, name): tuple(t.data_ptr() for t in (part.values, part.scale) if t is not None)
        for key, entry in cache._parts.items()
        for name, part in entry.items()
    }


# Addresses.


@every_width
@pytest.mark.parametrize("cached", ["output", "kv"])
def test_addresses_are_stable_over_a_run(rig, bits, cached):
    config = rig.config(quantization_bits=bits, cached=cached)
    wrapper, seen = rig.wrap(config, MaskGate(rig.mask(config))), []
    rig.sample(wrapper, on_step=lambda done: seen.append(addresses(wrapper.controller.cache)))
    assert len(seen) == rig.steps
    assert all(step == seen[0] for step in seen)
    assert len(seen[0]) == rig.layers * (2 if cached == "output" else 3)


@every_width
def test_a_value_that_does_not_fit_gets_room_of_its_own(bits):
    cache = cache_of(bits)
    for value in (random_output(0), random_output(1, rows=2), random_output(2, rows=2).half()):
        cache.store(KEY, {"output": value})
        found = cache.read(KEY)["output"]
        assert (found.shape, found.dtype) == (value.shape, value.dtype)
        expected = cache_of(bits)
        expected.store(KEY, {"output": value})
        assert torch.equal(found, expected.read(KEY)["output"])


def test_inference_tensors_are_replaced_outside_inference_mode():
    cache = cache_of(8)
    with torch.inference_mode():
        cache.store(KEY, {"output": random_output(0)})
        cache.store(KEY, {"output": random_output(1)})
    cache.store(KEY, {"output": random_output(2)})
    expected = quantize(random_output(2), CacheFormat(dtype="int8"))
    assert torch.equal(cache._parts[KEY]["output"].values, expected.values)


# Tensors that were returned.


@every_width
def test_what_is_fetched_is_the_callers_own(bits):
    cache = cache_of(bits)
    cache.store(KEY, {"output": random_output(0)})
    first = cache.fetch(KEY).output
    assert first is not None
    before = first.clone()
    cache.store(KEY, {"output": random_output(1)})
    assert torch.equal(first, before)
    first.zero_()
    assert cache.read(KEY)["output"].any()


@every_width
def test_a_borrower_keeps_what_it_was_lent(bits):
    cache = cache_of(bits)
    cache.store(KEY, {"output": random_output(0)})
    cache.lend(KEY, OTHER)
    lent = cache.read(OTHER)["output"].clone()
    cache.store(KEY, {"output": random_output(1)[:2]}, torch.tensor([3, 0]))
    assert torch.equal(cache.read(OTHER)["output"], lent)
    cache.store(KEY, {"output": random_output(2)})
    assert torch.equal(cache.read(OTHER)["output"], lent)
    before = addresses(cache)
    cache.lend(KEY, OTHER)
    assert addresses(cache) == before
    assert torch.equal(cache.read(OTHER)["output"], cache.read(KEY)["output"])


@torch.no_grad()
def test_a_float_cache_hands_out_the_tensor_that_it_stores():
    controller = DQARController(DQARConfig(quantization_bits=32), num_layers=1, gate=AllOf())
    found = []
    for step in range(3):
        controller.begin_step(step, 3)
        value = random_output(step, rows=1)
        found.append(controller.through(0, "attn", lambda _, v=value: Fresh(parts={"output": v})))
    assert found[1]["output"].data_ptr() == found[2]["output"].data_ptr()
    assert torch.equal(found[2]["output"], random_output(0, rows=1))


CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "output": ({}, False),
    "kv": ({"cached": "kv"}, False),
    "block": ({"sites": ("block",)}, False),
    "exposure": ({}, True),
    "shared": ({"cross_branch_threshold": math.inf}, False),
    "int8": ({"quantization_bits": 8}, False),
}
every_case = pytest.mark.parametrize(("changes", "exposure"), CASES.values(), ids=CASES)
GATES: dict[str, Any] = {
    "interval": lambda rig, config: Interval(2),
    "mixed": lambda rig, config: MaskGate(rig.mask(config)),
}
every_gate = pytest.mark.parametrize("gate_of", GATES.values(), ids=GATES)


@every_case
@every_gate
def test_nothing_that_a_step_was_given_changes_while_it_runs(rig, changes, exposure, gate_of):
    config = rig.config(**changes)
    gate: Gate = gate_of(rig, config)
    wrapper = rig.wrap(config, gate, exposure=exposure)
    controller, given, steps = wrapper.controller, [], []
    through = controller.through

    def watched(layer, site, compute):
        parts = through(layer, site, compute)
        given.extend((part, part.clone()) for part in parts.values())
        return parts

    def finished(done: int) -> None:
        steps.append(len(given))
        assert all(torch.equal(part, as_given) for part, as_given in given)
        given.clear()

    controller.through = watched
    rig.sample(wrapper, on_step=finished)
    assert len(steps) == rig.steps
    assert min(steps) > 0


@every_case
@every_gate
def test_what_a_hook_keeps_never_changes(rig, changes, exposure, gate_of):
    config, kept = rig.config(**changes), []

    def keep(module: Any, args: Any, output: torch.Tensor) -> None:
        kept.append((output, output.clone()))

    for block in rig.model.transformer_blocks:
        for module in (block, block.attn1, block.ff):
            module.register_forward_hook(keep)
    rig.sample(rig.wrap(config, gate_of(rig, config), exposure=exposure))
    assert len(kept) > rig.steps * rig.layers
    assert all(torch.equal(output, as_kept) for output, as_kept in kept)


def test_what_a_hook_of_all_modules_keeps_never_changes(rig):
    kept = []

    def keep(module: Any, args: Any, output: Any) -> None:
        if module is rig.model.transformer_blocks[0].ff:
            kept.append((output, output.clone()))

    handle = torch.nn.modules.module.register_module_forward_hook(keep)
    try:
        rig.sample(rig.wrap(rig.config(), Interval(2)))
    finally:
        handle.remove()
    assert len(kept) == rig.steps
    assert all(torch.equal(output, as_kept) for output, as_kept in kept)
