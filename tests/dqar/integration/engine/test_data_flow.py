"""Transformers that no family describes: stacks and streams are found by data flow, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dqar.gates.rules import Interval, MaskGate, NeverReuse
from dqar.integration.engine import lookup
from dqar.integration.sites import gate_table, stacks_of
from tests.dqar.integration.engine.driver import STEPS, Sampled, sample
from tests.dqar.integration.engine.models import CASES

KNOWN = ("dit", "sana", "sd3", "flux", "wan", "ltx", "mochi")
CHOICES = [(name, site) for name in KNOWN for site in ("block", "stack")]


@pytest.fixture
def unknown(monkeypatch):
    """Forget all families."""
    monkeypatch.setattr(lookup, "known_families", dict)
    monkeypatch.setattr(lookup, "OLDER", {})


@pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")
@pytest.mark.parametrize(("name", "site"), CHOICES)
def test_a_model_without_description_is_right(unknown, monkeypatch, name, site, distance):
    case, everyone, sites = CASES[name], [0, 1, 2], (site,)
    model = case.build()
    mask = torch.zeros(STEPS, 1, 3, dtype=torch.bool)
    mask[1::2, :, 1], mask[1:, :, 2] = True, True
    gates = NeverReuse(), Interval(2), MaskGate(mask)
    found = [Sampled(case, model, sites, gate, everyone) for gate in gates]
    exposed = Sampled(case, model, sites, MaskGate(mask), everyone, exposure=True)
    assert torch.equal(found[0].latents, sample(case, model, everyone))
    monkeypatch.undo()
    described = [Sampled(case, model, sites, gate, everyone) for gate in gates]
    for one, other in zip(found, described, strict=True):
        assert distance(one.latents, other.latents) < 1e-5
    assert distance(exposed.latents, described[2].latents) < 1e-5
    assert found[1].controller.summary().reused > 0


def test_stacks_are_lists_of_blocks_of_one_class(unknown):
    model = CASES["flux"].build()
    paths = [placed.stack.path for placed in stacks_of(model)]
    assert paths == ["transformer_blocks", "single_transformer_blocks"]
    assert gate_table(model, ("block",)).num_gates == 5
    with pytest.raises(ValueError, match="Got 'attn' for a model with block, stack"):
        gate_table(model, ("attn",))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden: Any, scale: Any = None) -> Any:
        return hidden + self.linear(hidden), 2.0 * hidden


class Toy(nn.Module):
    """Blocks that return a further output, and hand on a copy or the tensor itself."""

    def __init__(self, *, copies: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block() for _ in range(3)])
        self.copies = copies

    def forward(self, hidden_states: Any, timestep: Any) -> Any:
        del timestep
        further = 0.0
        for layer in self.layers:
            hidden_states, extra = layer(hidden_states)
            hidden_states = hidden_states.clone() if self.copies else hidden_states
            further = further + extra
        return type("Output", (), {"sample": hidden_states + further})()


def toy_case(copies: bool) -> Any:
    torch.manual_seed(0)
    model = Toy(copies=copies).eval()

    class ToyCase:
        latents = (2, 4)
        timestep = staticmethod(lambda timestep: timestep)
        others = staticmethod(lambda rows: {})

    return ToyCase, model


def test_further_outputs_of_a_block_are_kept_too(distance):
    case, model = toy_case(copies=False)
    everyone = [0, 1, 2]
    mask = torch.zeros(STEPS, 1, 3, dtype=torch.bool)
    mask[1:, :, 2] = True
    mixed = Sampled(case, model, ("block",), MaskGate(mask), everyone)
    assert distance(mixed.latents[:2], sample(case, model, everyone)[:2]) < 1e-6
    alone = Sampled(case, model, ("block",), MaskGate(mask[..., 2:]), [2])
    assert distance(mixed.latents[2:], alone.latents) < 1e-6
    with pytest.raises(ValueError, match="must return their streams alone"):
        Sampled(case, model, ("stack",), Interval(2), everyone)


def test_blocks_that_hand_nothing_on_are_refused():
    case, model = toy_case(copies=True)
    with pytest.raises(ValueError, match=r"must hand its streams on.*layers, whose next block"):
        Sampled(case, model, ("block",), Interval(2), [0, 1, 2])


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(nn.ModuleList([nn.ReLU()]))])
def test_a_model_without_blocks_is_refused(model):
    with pytest.raises(ValueError, match=f"must have a list of blocks.*{type(model).__name__}"):
        gate_table(model, ("block",))
