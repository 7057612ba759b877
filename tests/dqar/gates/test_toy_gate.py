"""A new gate takes one class; the controller runs it on an unchanged model."""

from __future__ import annotations

import torch

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.base import AllOf, Gate, refuse_where
from dqar.gates.rules import Warmup
from dqar.integration import DQARDiTWrapper, DQARSampler, SamplerConfig
from dqar.records import DecisionReason

STEPS, LAYERS = 6, 3


class EvenLayers(Gate):
    """A gate that reuses at every second layer."""

    def decide(self, inputs):
        odd = torch.arange(inputs.shape[0]) % 2 == 1
        return refuse_where(odd[:, None] | ~inputs.cached, DecisionReason.SCHEDULE, inputs)


def decisions(model, scheduler, gate):
    """Return the reuse decisions by step and gate, and the final latents."""
    records = []
    config = DQARConfig(sites=("attn",))
    controller = DQARController(config, gate=gate, sink=records.append)
    sampling = SamplerConfig(num_inference_steps=STEPS, guidance_scale=2.0)
    sampler = DQARSampler(DQARDiTWrapper(model, config), scheduler, sampling)
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = sampler.sample(2, [1, 4], latents=noise, controller=controller)
    return torch.stack([one.decision.reuse.all(dim=1) for one in records]), latents


def test_a_toy_gate_decides_for_the_controller(tiny_dit, ddim):
    reuse, latents = decisions(tiny_dit, ddim, EvenLayers())
    expected = torch.tensor([True, False, True]).expand(STEPS, LAYERS).clone()
    expected[0] = False
    assert torch.equal(reuse, expected)
    _, stock = decisions(tiny_dit, ddim, Warmup(1.0))
    assert (latents - stock).abs().max() > 1e-4


def test_a_toy_gate_agrees_with_others(tiny_dit, ddim):
    reuse, _ = decisions(tiny_dit, ddim, AllOf(Warmup(0.5), EvenLayers()))
    assert reuse[: STEPS // 2].sum() == 0
    assert reuse[STEPS // 2 :, ::2].all()
    assert not reuse[:, 1].any()
