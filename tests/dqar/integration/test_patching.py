"""Patches are removed completely; a model that cannot be patched is refused and not changed."""

from __future__ import annotations

import pytest
import torch

from dqar.gates.base import AllOf
from dqar.gates.rules import Interval, MaskGate, NeverReuse
from dqar.integration import DQARDiTWrapper


def anatomy_of(model) -> dict[str, dict]:
    """Return every attribute of every module; tensors and modules compare by identity."""
    return {
        name: {key: dict(part) if isinstance(part, dict) else part for key, part in found.items()}
        for name, found in ((name, vars(module)) for name, module in model.named_modules())
    }


@pytest.mark.parametrize("cached", ["output", "kv"])
@pytest.mark.parametrize("exposure", [False, True])
def test_unpatch_restores_the_model(rig, patches, cached, exposure):
    stock, before = rig.sample(), anatomy_of(rig.model)
    weights = {name: value.clone() for name, value in rig.model.state_dict().items()}
    config = rig.config(cached=cached, quantization_bits=8)
    wrapper = rig.wrap(
        config, MaskGate(rig.mask(config)), exposure=exposure, sink=lambda record: None
    )
    rig.sample(wrapper)
    assert rig.model.state_dict().keys() == weights.keys()
    assert wrapper.unpatch() is rig.model
    assert patches(rig.model) == []
    assert anatomy_of(rig.model) == before
    assert all(torch.equal(rig.model.state_dict()[name], value) for name, value in weights.items())
    assert torch.equal(rig.sample(), stock)


def test_patches_come_off_in_the_reverse_order(rig, patches):
    first, second = (rig.wrap(rig.config()) for _ in range(2))
    with pytest.raises(ValueError, match="must come off in the reverse order"):
        first.unpatch()
    second.unpatch()
    first.unpatch()
    assert patches(rig.model) == []


def test_patch_below_a_patch_comes_back(rig):
    stock = rig.sample()
    first = rig.wrap(rig.config(), Interval(2))
    alone = rig.sample(first)
    second = rig.wrap(rig.config(), NeverReuse())
    assert torch.equal(rig.sample(second), stock)
    second.unpatch()
    assert torch.equal(rig.sample(first), alone)


def test_forward_of_the_whole_model_may_be_replaced(rig):
    """Offloading replaces ``forward`` of the whole model between two runs, and restores it."""
    wrapper = rig.wrap(rig.config(), Interval(2))
    alone, inner = rig.sample(wrapper), rig.model.forward
    rig.model.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    assert torch.equal(rig.sample(wrapper), alone)
    wrapper.unpatch()
    del rig.model.forward
    wrapper = rig.wrap(rig.config(), Interval(2))
    rig.model.forward = inner
    assert torch.equal(rig.sample(wrapper), alone)


def test_unpatching_twice_is_harmless(rig, patches):
    wrapper = rig.wrap(rig.config(), AllOf())
    assert wrapper.unpatch() is wrapper.unpatch() is rig.model
    assert patches(rig.model) == []


def test_chunked_feed_forward_is_refused(rig):
    for block in rig.model.transformer_blocks:
        block.set_chunk_feed_forward(4, dim=1)
    with pytest.raises(ValueError, match="Got a chunked feed-forward"):
        rig.wrap(rig.config(sites=("ff",)))
    rig.wrap(rig.config(sites=("attn",))).unpatch()


def test_refused_model_is_left_as_it_was(rig, patches):
    rig.model.transformer_blocks[1].set_chunk_feed_forward(4, dim=1)
    with pytest.raises(ValueError, match="chunked"):
        rig.wrap(rig.config())
    assert patches(rig.model) == []


def test_model_chunked_since_it_was_patched_is_refused(rig):
    stock = rig.sample()
    wrapper = rig.wrap(rig.config(), NeverReuse())
    rig.model.transformer_blocks[1].set_chunk_feed_forward(4, dim=1)
    with pytest.raises(ValueError, match="Got a chunked feed-forward"):
        rig.sample(wrapper)
    rig.model.transformer_blocks[1].set_chunk_feed_forward(None)
    assert torch.equal(rig.sample(wrapper), stock)


def test_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match=r"must have a list of blocks.*Got Linear with no list"):
        DQARDiTWrapper(torch.nn.Linear(2, 2))
