"""A run that never reuses equals the unpatched model to the bit; a run that reuses differs."""

from __future__ import annotations

import pytest
import torch

from dqar.config import DQARConfig
from dqar.gates.base import AllOf
from dqar.gates.rules import NeverReuse

by_branches = pytest.mark.parametrize("branch_mode", ["tied", "independent"])
by_sites = pytest.mark.parametrize("sites", [("attn",), ("ff",), ("attn", "ff")], ids="+".join)
by_cached = pytest.mark.parametrize("cached", ["output", "kv"])


@by_sites
@by_branches
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_closed_gates_are_bit_identical(rig, sites, branch_mode, guidance):
    stock = rig.sample(guidance=guidance)
    wrapper = rig.wrap(rig.config(sites=sites, branch_mode=branch_mode), NeverReuse())
    assert torch.equal(rig.sample(wrapper, guidance=guidance), stock)
    assert wrapper.controller.summary().reused == 0


@by_cached
def test_never_config_is_bit_identical(rig, cached):
    stock = rig.sample()
    wrapper = rig.wrap(DQARConfig(enabled=False, cached=cached))
    assert torch.equal(rig.sample(wrapper), stock)
    assert "all refused" in wrapper.controller.summary().note


@by_cached
@pytest.mark.parametrize("exposure", [False, True])
def test_measuring_every_feature_is_bit_identical(rig, cached, exposure):
    config = rig.config(quantization_bits=8, cached=cached)
    ran = rig.run(config, NeverReuse(), exposure=exposure)
    assert torch.equal(ran.latents, rig.sample())
    assert ran.features.isfinite().all()


def test_open_gates_change_the_result(rig, distance):
    ran = rig.run(rig.config(), AllOf())
    assert distance(ran.latents, rig.sample()) > 1e-3
    whole = 2 * rig.layers * rig.samples
    assert ran.summary.by_step == [0] + [whole] * (rig.steps - 1)


def test_wrapper_outside_a_run_is_stock(rig):
    arguments = {"timestep": torch.full((3,), 500), "class_labels": rig.labels}
    stock = rig.model(rig.noise, **arguments).sample
    wrapper = rig.wrap(rig.config(), AllOf())
    rig.sample(wrapper)
    asked = wrapper.controller.summary()
    assert torch.equal(wrapper(rig.noise, **arguments).sample, stock)
    assert torch.equal(rig.model(rig.noise, **arguments).sample, stock)
    assert wrapper.controller.summary() == asked
