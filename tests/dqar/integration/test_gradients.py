"""Gradients through a run: a step's gradient takes the values that it reuses as constants."""

from __future__ import annotations

import pytest
import torch

from dqar.gates.rules import Interval, NeverReuse
from dqar.integration import PlannedDiT
from dqar.schedules.export import export_plan

CHANGES = [
    {},
    {"cached": "kv", "sites": ("attn",)},
    {"sites": ("block",)},
    {"quantization_bits": 8},
    {"forecast_order": 1, "feedback": 0.5},
]


@pytest.fixture(autouse=True)
def trainable(rig):
    """Let the weights have gradients, so that autograd keeps the values that multiply them."""
    rig.model.requires_grad_(True)


def sampled(rig, model, noise):
    """Latents after a run without ``no_grad``."""
    rig.scheduler.set_timesteps(rig.steps)
    current = noise
    for timestep in rig.scheduler.timesteps:
        output = model(current, timestep=timestep.expand(3), class_labels=rig.labels).sample
        current = rig.scheduler.step(output, timestep, current).prev_sample
    return current


def gradients_of(rig, latents, noise):
    weights = [*rig.model.transformer_blocks.parameters()]
    return torch.autograd.grad(latents.square().sum(), [noise, *weights], allow_unused=True)


class Constants:
    """Sites of a model that reuse at every second step what they computed before, as constants."""

    def __init__(self, model) -> None:
        self.calls = -1
        model.register_forward_pre_hook(self.next_step)
        for block in model.transformer_blocks:
            for module in (block.attn1, block.ff):
                module.forward = self.site(module.forward)

    def next_step(self, *_: object) -> None:
        self.calls += 1

    def site(self, inner):
        kept = []

        def forward(*args, **kwargs):
            if self.calls % 2:
                return kept[-1]
            kept.append((output := inner(*args, **kwargs)).detach())
            return output

        return forward


def test_gradient_is_that_of_constants(rig):
    noise = rig.noise.clone().requires_grad_()
    wrapper = rig.wrap(rig.config(), Interval(2))
    with wrapper.run(rig.scheduler, num_branches=1):
        latents = sampled(rig, wrapper, noise)
    found = gradients_of(rig, latents, noise)
    wrapper.unpatch()
    Constants(rig.model)
    expected = sampled(rig, rig.model, noise)
    assert torch.equal(latents, expected)
    for one, other in zip(found, gradients_of(rig, expected, noise), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_every_way_to_reuse_has_gradients(rig, changes):
    noise = rig.noise.clone().requires_grad_()
    wrapper = rig.wrap(rig.config(**changes), Interval(2))
    with torch.no_grad(), wrapper.run(rig.scheduler, num_branches=1):
        expected = sampled(rig, wrapper, noise)
    with wrapper.run(rig.scheduler, num_branches=1):
        latents = sampled(rig, wrapper, noise)
    assert torch.equal(latents, expected)
    gradient = gradients_of(rig, latents, noise)[0]
    assert gradient.isfinite().all()
    assert gradient.norm() > 0


@pytest.mark.parametrize("order", [0, 1])
def test_a_plan_has_the_controllers_gradient(rig, order):
    noise = rig.noise.clone().requires_grad_()
    config = rig.config(forecast_order=order)
    wrapper = rig.wrap(config, Interval(2))
    with wrapper.run(rig.scheduler, num_branches=1):
        latents = sampled(rig, wrapper, noise)
    expected = gradients_of(rig, latents, noise)
    wrapper.unpatch()
    shape = {"steps": rig.steps, "sites": config.sites, "num_layers": rig.layers}
    planned = PlannedDiT(rig.model, export_plan(Interval(2), **shape, forecast_order=order))
    with planned.run(rig.scheduler):
        latents = sampled(rig, planned, noise)
    for one, other in zip(gradients_of(rig, latents, noise), expected, strict=True):
        torch.testing.assert_close(one, other)


REFUSED = r"Got gradient checkpointing.*Sample under torch\.no_grad"


def test_gradient_checkpointing_is_refused_where_a_gate_may_reuse(rig):
    noise = rig.noise.clone().requires_grad_()
    rig.model.enable_gradient_checkpointing()
    stock = sampled(rig, rig.model, noise)
    wrapper = rig.wrap(rig.config(), Interval(2))
    with wrapper.run(rig.scheduler, num_branches=1), pytest.raises(ValueError, match=REFUSED):
        sampled(rig, wrapper, noise)
    with torch.no_grad(), wrapper.run(rig.scheduler, num_branches=1) as controller:
        sampled(rig, wrapper, noise)
    assert controller.summary().reuse_ratio == 0.5
    wrapper.unpatch()
    closed = rig.wrap(rig.config(), NeverReuse())
    with closed.run(rig.scheduler, num_branches=1):
        latents = sampled(rig, closed, noise)
    for one, other in zip(*(gradients_of(rig, x, noise) for x in (latents, stock)), strict=True):
        torch.testing.assert_close(one, other)


def test_gradient_checkpointing_is_refused_under_a_plan(rig):
    plan = export_plan(Interval(2), steps=rig.steps, sites=("attn",), num_layers=rig.layers)
    planned = PlannedDiT(rig.model, plan)
    rig.model.enable_gradient_checkpointing()
    with planned.run(rig.scheduler), pytest.raises(ValueError, match=REFUSED):
        sampled(rig, planned, rig.noise.clone().requires_grad_())
