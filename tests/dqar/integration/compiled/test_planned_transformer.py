"""An uncompiled planned model equals, to the bit, a controller that follows the same plan."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch

from dqar.control.controller import DQARController
from dqar.gates.rules import Interval
from dqar.integration import DQARDiTWrapper, PlannedDiT
from dqar.integration.compiled.step_variants import roles_of
from dqar.schedules.export import export_plan
from dqar.schedules.static_plan import StaticPlan

SITES = [("attn",), ("ff",), ("attn", "ff"), ("ff", "attn"), ("block",)]
all_sites = pytest.mark.parametrize("sites", SITES, ids=",".join)


def plan_of(rig, sites, share=0.5) -> StaticPlan:
    """A plan from a random mask."""
    shape = (rig.steps, len(sites) * rig.layers)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < share
    mask[0] = False
    return StaticPlan.of_mask(mask, sites=sites)


class PixArt:
    """A tiny PixArt model with inputs of a few steps."""

    def __init__(self) -> None:
        from diffusers import PixArtTransformer2DModel

        generator = torch.Generator().manual_seed(1)
        self.latents = torch.randn(4, 4, 8, 8, generator=generator)
        self.prompt = torch.randn(4, 5, 12, generator=generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: Any = PixArtTransformer2DModel(
                num_attention_heads=2,
                attention_head_dim=8,
                num_layers=3,
                sample_size=8,
                cross_attention_dim=16,
                caption_channels=12,
                use_additional_conditions=False,
            )
        self.model = model.eval().requires_grad_(False)
        self.timesteps = torch.tensor(())

    def __call__(self, step):
        """Return the output at a step, on latents that differ from step to step."""
        return self.model(
            self.latents * (1 + step),
            encoder_hidden_states=self.prompt,
            timestep=self.timesteps[step].expand(4),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]


@pytest.fixture
def pixart():
    return PixArt()


def by_controller(rig, plan, bits=32, **options):
    """Return latents of a controller that follows the plan, with an unquantised cache."""
    wrapper = rig.wrap(rig.config(sites=plan.sites, quantization_bits=bits), plan.gate())
    latents = rig.sample(wrapper, **options)
    wrapper.unpatch()
    assert wrapper.controller.summary().reuse_ratio == pytest.approx(plan.reuse_ratio)
    return latents


# Results.


@all_sites
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_plan_is_followed_to_the_bit(rig, sites, guidance):
    stock, plan = rig.sample(guidance=guidance), plan_of(rig, sites)
    expected = by_controller(rig, plan, guidance=guidance)
    planned = PlannedDiT(rig.model, plan)
    for _ in range(2):
        assert torch.equal(rig.sample(planned, guidance=guidance), expected)
    assert not torch.equal(expected, stock)
    assert torch.equal(rig.sample(guidance=guidance), stock)


@all_sites
def test_plan_that_never_reuses_is_stock_and_keeps_nothing(rig, sites):
    stock, plan = rig.sample(), plan_of(rig, sites, share=0.0)
    assert set(roles_of(plan)[plan.table[0]]) == {"compute"}
    assert torch.equal(rig.sample(PlannedDiT(rig.model, plan)), stock)


@pytest.mark.parametrize("sites", [("attn", "ff"), ("block",)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(rig, sites, dtype):
    rig.model.to(dtype)
    rig.noise = rig.noise.to(dtype)
    plan = plan_of(rig, sites)
    expected = by_controller(rig, plan, bits=16)
    latents = rig.sample(PlannedDiT(rig.model, plan))
    assert latents.dtype == dtype
    assert torch.equal(latents, expected)


@pytest.mark.parametrize(
    ("site", "inside"), [("attn", "attn1.to_q"), ("ff", "ff.net.0"), ("block", "norm1")]
)
def test_reused_sites_do_not_run(rig, site, inside):
    plan, calls = plan_of(rig, (site,)), []
    computed = (~plan.mask).sum(dim=0).tolist()
    planned = PlannedDiT(rig.model, plan)
    rig.sample(planned)
    for layer, block in enumerate(rig.model.transformer_blocks):
        part = block.get_submodule(inside)
        part.register_forward_hook(lambda *_, layer=layer: calls.append(layer))
    rig.sample(planned)
    assert [calls.count(layer) for layer in range(rig.layers)] == computed


def test_stock_pipeline_follows_a_plan(pipe, images_of):
    stock = images_of(pipe)
    pipe.scheduler.set_timesteps(6)
    plan = export_plan(Interval(2), sites=("attn",), num_layers=3, scheduler=pipe.scheduler)
    planned = PlannedDiT(pipe.transformer, plan)
    with planned.run(pipe.scheduler):
        images = images_of(pipe)
    assert not torch.equal(images, stock)
    assert torch.equal(images_of(pipe), stock)


@pytest.mark.parametrize("sites", [("attn", "ff"), ("block",)])
def test_model_with_cross_attention_follows_a_plan(rig, pixart, sites):
    plan = plan_of(rig, sites)
    rig.scheduler.set_timesteps(rig.steps)
    pixart.timesteps = rig.scheduler.timesteps
    stock = [pixart(step) for step in range(rig.steps)]
    planned = PlannedDiT(pixart.model, plan)
    with planned.run(rig.scheduler):
        outputs = [pixart(step) for step in range(rig.steps)]
    assert torch.equal(outputs[0], stock[0])
    assert not torch.equal(outputs[-1], stock[-1])
    if sites == ("block",):
        return  # a controller refuses encoder states
    planned.unpatch()
    wrapper = DQARDiTWrapper(pixart.model, rig.config(sites=sites), sites=sites)
    controller = DQARController(rig.config(sites=sites), gate=plan.gate())
    with wrapper.run(rig.scheduler, num_branches=1, controller=controller):
        expected = [pixart(step) for step in range(rig.steps)]
    assert all(map(torch.equal, outputs, expected))


# Buffers and their addresses.


def test_a_gate_keeps_where_a_step_of_its_kind_is_followed_by_a_reuse():
    mask = torch.tensor([[0, 0], [1, 0], [0, 0], [0, 1]], dtype=torch.bool)
    plan = StaticPlan.of_mask(mask, sites=("attn",))
    none, first, second = dict.fromkeys(plan.table)
    assert roles_of(plan) == {
        none: ("keep", "keep"),
        first: ("reuse", "compute"),
        second: ("compute", "reuse"),
    }


def kept(planned) -> list[tuple]:
    return [(t.data_ptr(), *t.shape, t.dtype) for t in planned._memory.tensors]


def test_what_is_kept_stays_where_it_is_until_the_batch_changes(rig):
    planned = PlannedDiT(rig.model, plan_of(rig, ("attn", "ff")))
    rig.sample(planned)
    first = kept(planned)
    rig.sample(planned)
    assert kept(planned) == first
    for changed in ({"chosen": slice(2)}, {"guidance": 1.0}):
        expected = by_controller_of_a_copy(rig, planned.plan, **changed)
        assert torch.equal(rig.sample(planned, **changed), expected)
        assert kept(planned) != first


def by_controller_of_a_copy(rig, plan, **options):
    other = type(rig)(copy.deepcopy(rig.model), rig.scheduler)
    return by_controller(other, plan, **options)


def test_inference_mode_and_no_grad_take_turns(rig):
    planned = PlannedDiT(rig.model, plan_of(rig, ("attn",)))
    with torch.inference_mode():
        first = rig.sample(planned).clone()
    assert torch.equal(rig.sample(planned), first)


def test_the_model_may_change_between_runs(rig):
    plan = plan_of(rig, ("attn", "ff"))
    planned = PlannedDiT(rig.model, plan)
    before = rig.sample(planned)
    attention: Any = rig.model.transformer_blocks[1].attn1
    attention.to_q = torch.nn.Linear(16, 16).requires_grad_(False)
    rig.model.transformer_blocks[2].norm3 = torch.nn.Identity()
    after = rig.sample(planned)
    assert not torch.equal(after, before)
    assert torch.equal(after, by_controller_of_a_copy(rig, plan))


# Patches.


def test_unpatched_and_copied_models_are_stock(rig, patches):
    stock, names = rig.sample(), list(rig.model.state_dict())
    planned = PlannedDiT(rig.model, plan_of(rig, ("block",)))
    rig.sample(planned)
    assert patches(rig.model) == [""]
    assert list(rig.model.state_dict()) == names
    copied = copy.deepcopy(rig.model)
    with planned.run(rig.scheduler):
        assert torch.equal(rig.sample(copied), stock)
    assert planned.unpatch() is rig.model
    assert patches(rig.model) == []
    assert torch.equal(rig.sample(), stock)


def test_a_copy_of_a_planned_model_may_follow_a_plan_beside_it(rig):
    plan = plan_of(rig, ("attn", "ff"))
    planned = PlannedDiT(rig.model, plan)
    expected = rig.sample(planned)
    copied = PlannedDiT(copy.deepcopy(rig.model), plan)
    with planned.run(rig.scheduler):
        assert torch.equal(rig.sample(copied), expected)


def test_other_threads_find_the_model_stock(rig):
    stock, found = rig.sample(), []
    scheduler = copy.deepcopy(rig.scheduler)
    other = type(rig)(rig.model, scheduler)
    planned = PlannedDiT(rig.model, plan_of(rig, ("attn", "ff")))
    expected = rig.sample(planned)

    def between(step):
        if step == 2:
            thread = threading.Thread(target=lambda: found.append(other.sample()))
            thread.start()
            thread.join()

    assert torch.equal(rig.sample(planned, on_step=between), expected)
    assert torch.equal(found[0], stock)
