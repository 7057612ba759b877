"""Blocks that run twice, write to their streams, take their arguments by place alone, or whose
streams the model writes to: served right, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dqar.gates.rules import Interval
from tests.dqar.integration.engine.driver import Sampled, sample

EVERYONE = [0, 1, 2]
STATE = {"step": 0}


class Case:
    """A model that takes latents and a timestep alone."""

    latents = (2, 4)
    timestep = staticmethod(lambda timestep: timestep)
    others = staticmethod(lambda rows: {})


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.linear(hidden)


class ByPlace(Block):
    def forward(self, *given: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] by place
        return super().forward(given[0])


class InPlace(Block):
    def forward(self, hidden: Tensor) -> Tensor:
        hidden += self.linear(hidden)
        return hidden


class Model(nn.Module):
    """Three blocks, after each of which the model adds a residual in place."""

    def __init__(self, kind: type[Block], added: float = 0.0, runs: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.ModuleList([kind() for _ in range(3)])
        self.added, self.runs = added, runs

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Any:
        hidden = 1.0 * hidden_states
        for _ in range(self.runs):
            for layer in self.layers:
                hidden = layer(hidden)
                if self.added:
                    hidden += self.added * timestep.view(-1, 1, 1) / 1000
        return type("Output", (), {"sample": hidden})()


class Replay(nn.Module):
    """The model whose odd steps add the residuals of the step before, of each block or of all."""

    def __init__(self, model: Model, *, is_stack: bool) -> None:
        super().__init__()
        self.model, self.is_stack, self.kept = model, is_stack, {}

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Any:
        computes = STATE["step"] % 2 == 0
        control = self.model.added * timestep.view(-1, 1, 1) / 1000
        hidden = first = 1.0 * hidden_states
        for place, layer in enumerate(self.model.layers):
            before = hidden
            if computes:
                hidden = layer(before)
                self.kept[place] = hidden - (first if self.is_stack else before)
            else:
                hidden = (first if self.is_stack else before) + self.kept[place]
            hidden = hidden + control
        return type("Output", (), {"sample": hidden})()


def replayed(model: Model, site: str) -> Tensor:
    replay = Replay(model, is_stack=site == "stack")
    return sample(Case, replay, EVERYONE, lambda step: STATE.update(step=step))  # pyright: ignore[reportArgumentType] a case by its attributes


def run(model: Model, site: str) -> Sampled:
    return Sampled(Case, model, (site,), Interval(2), EVERYONE)  # pyright: ignore[reportArgumentType] a case by its attributes


both_sites = pytest.mark.parametrize("site", ["block", "stack"])


@both_sites
@pytest.mark.parametrize("added", [0.0, 0.5])
@pytest.mark.parametrize("kind", [Block, ByPlace])
def test_reuse_is_that_of_the_replay(distance, kind, added, site):
    model = Model(kind, added)
    found = run(model, site)
    assert distance(found.latents, replayed(model, site)) < 1e-5
    assert distance(found.latents, sample(Case, model, EVERYONE)) > 1e-4  # pyright: ignore[reportArgumentType] a case by its attributes
    assert found.controller.summary().reused > 0


@both_sites
def test_blocks_that_write_to_their_stream_are_refused(site):
    with pytest.raises(ValueError, match="writes to its output in place"):
        run(Model(InPlace), site)


@both_sites
def test_blocks_that_write_to_their_stream_are_refused_in_inference_mode(site):
    """PyTorch counts no writes there."""
    with torch.inference_mode(), pytest.raises(ValueError, match="writes to its hidden in place"):
        run(Model(InPlace), site)


@both_sites
def test_blocks_that_run_twice_are_refused(site):
    with pytest.raises(ValueError, match=f"second run of the site {site} of layer 0"):
        run(Model(Block, runs=2), site)


@both_sites
def test_a_block_in_several_places_is_refused_when_patched(site):
    model = Model(Block)
    model.layers = nn.ModuleList([model.layers[0]] * 3)
    with pytest.raises(ValueError, match=f"one Block as the site {site} of several blocks"):
        run(model, site)
    assert "forward" not in vars(model.layers[0])


class WithoutLast(Model):
    """A model that never calls its last block."""

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Any:
        del timestep
        hidden = 1.0 * hidden_states
        for layer in [*self.layers][:-1]:
            hidden = layer(hidden)
        return type("Output", (), {"sample": hidden})()


def test_a_stack_that_never_ends_is_refused():
    """It has no residual: every step computed, and the summary did not say why."""
    with pytest.raises(ValueError, match="never ran the last block of the stack at layer 0"):
        run(WithoutLast(Block), "stack")
    assert run(WithoutLast(Block), "block").controller.summary().reused > 0
