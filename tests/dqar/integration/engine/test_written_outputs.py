"""Blocks that scale what their site returns in place, which may be a tensor of the cache."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dqar.gates.rules import Interval
from dqar.integration.engine.description import Family, Site, Stack
from dqar.integration.engine.lookup import known_families
from dqar.integration.engine.module_site import _count_of_writes
from tests.dqar.integration.engine.driver import Sampled
from tests.dqar.integration.engine.models import randn

CASE: Any = type(
    "Case",
    (),
    {
        "latents": (2, 4),
        "timestep": staticmethod(lambda timestep: timestep),
        "others": staticmethod(lambda rows: {}),
    },
)


class ScaledBlock(nn.Module):
    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.ff = nn.Linear(4, 4)
        self.in_place = in_place

    def forward(self, hidden_states: Tensor, gate: Tensor) -> Tensor:
        output = self.ff(hidden_states)
        if self.in_place:
            output *= gate
        else:
            output = output * gate
        return hidden_states + output


class ScaledModel(nn.Module):
    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.ModuleList([ScaledBlock(in_place=in_place) for _ in range(2)])

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Any:
        hidden = 1.0 * hidden_states
        for layer in self.layers:
            hidden = layer(hidden, timestep.view(-1, 1, 1) / 300)
        return type("Output", (), {"sample": hidden})()


@pytest.fixture
def _family(monkeypatch):
    stack = Stack(path="layers", sites={"ff": Site(module="ff", by_row=())})
    monkeypatch.setitem(known_families(), "ScaledModel", Family(stacks=(stack,)))


@pytest.mark.usefixtures("_family")
@pytest.mark.parametrize("mode", [nullcontext, torch.inference_mode])
def test_an_output_that_the_block_scales_in_place_is_reused_unscaled(mode):
    """The second reuse in a row showed the first one's scaled value."""

    def latents(*, in_place: bool) -> Tensor:
        model = ScaledModel(in_place=in_place).requires_grad_(False)
        return Sampled(CASE, model, ("ff",), Interval(4), [0, 1, 2]).latents

    with mode():
        assert torch.equal(latents(in_place=True), latents(in_place=False))


def test_outputs_are_not_kept_to_count_the_writes_to_them():
    output = randn(3, 2)
    count, writes = _count_of_writes(output)
    assert count.untyped_storage().nbytes() == 0
    assert count._version == writes
    output *= 2.0
    assert count._version == writes + 1
