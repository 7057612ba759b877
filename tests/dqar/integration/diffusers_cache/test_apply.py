"""A cache applied to a transformer alone equals the wrapper that knows the scheduler."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from dqar import (
    DQARCacheConfig,
    DQARController,
    DQARDiTWrapper,
    PolicySpec,
    ReusePolicy,
    apply_dqar_cache,
    export_plan,
    patch_pipeline,
    remove_dqar_cache,
    unpatch_pipeline,
)
from dqar.config import DQARConfig
from dqar.gates.rules import Interval, MaskGate
from dqar.integration import PlannedDiT
from tests.conformance.pipelines import CASES
from tests.dqar.integration.guidance.recording import pipe_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
STEPS, LAYERS = 6, 3
EXACT: dict[str, Any] = {"quantization_bits": 32}


def sampled(name: str, pipe: Any, samples: int = 2, **options: Any) -> torch.Tensor:
    case = CASES[name]
    given = case.arguments(samples, case.low) | {"num_inference_steps": STEPS} | options
    return pipe(**given)[0]


def by_wrapper(name: str, pipe: Any, config: DQARConfig, gate: Any, **options: Any):
    patch_pipeline(pipe, config)
    controller = DQARController(config, gate=gate)
    latents = sampled(name, pipe, controller=controller, **options)
    unpatch_pipeline(pipe)
    return latents, controller.summary()


@pytest.mark.parametrize("sites", [("attn", "ff"), ("block",), ("stack",)], ids=str)
@pytest.mark.parametrize("order", [0, 1])
def test_an_interval_on_dit_is_the_wrappers(pipe, images_of, patches, sites, order):
    stock = images_of(pipe)
    config = DQARConfig(sites=sites, forecast_order=order, **EXACT)
    patch_pipeline(pipe, config)
    reused = images_of(pipe, controller=(one := DQARController(config, gate=Interval(2))))
    unpatch_pipeline(pipe)
    chosen = DQARCacheConfig(interval=2, sites=sites, forecast_order=order, **EXACT)
    cache = apply_dqar_cache(pipe.transformer, chosen)
    for _ in range(2):
        assert torch.equal(images_of(pipe), reused)
        assert cache.summary().by_step == one.summary().by_step
        assert cache.summary().by_reason == one.summary().by_reason
    remove_dqar_cache(pipe.transformer)
    assert patches(pipe.transformer) == []
    assert torch.equal(images_of(pipe), stock)


@pytest.mark.parametrize("with_timesteps", [False, True])
def test_a_plan_is_followed_with_and_without_its_timesteps(pipe, images_of, with_timesteps):
    mask = torch.tensor([0, 1, 1, 0, 0, 1], dtype=torch.bool)
    gate = MaskGate(mask[:, None, None].expand(-1, LAYERS, 1))
    pipe.scheduler.set_timesteps(STEPS)
    length = {"scheduler": pipe.scheduler} if with_timesteps else {"steps": STEPS}
    plan = export_plan(gate, sites=("attn",), num_layers=LAYERS, **length)
    assert bool(plan.timesteps) == with_timesteps
    patch_pipeline(pipe, plan.config())
    reused = images_of(pipe, controller=DQARController(plan.config(), gate=plan.gate()))
    unpatch_pipeline(pipe)
    cache = apply_dqar_cache(pipe.transformer, DQARCacheConfig(plan=plan))
    assert torch.equal(images_of(pipe), reused)
    assert [math.ceil(count / 6) for count in cache.summary().by_step] == mask.int().tolist()


def planned_policy(**changes: Any) -> ReusePolicy:
    plans: dict[str, Any] = {"steps": STEPS, "plans": ((0,), (0, 1, 4))}
    plans |= {"plan_errors": (0.2, 0.1)}
    values: dict[str, Any] = {"features": ("log_gap",), "sites": ("attn",)} | plans
    return ReusePolicy(PolicySpec(**(values | changes)))


def test_a_policy_is_followed_for_its_number_of_steps(pipe, images_of):
    policy = planned_policy()
    controller = DQARController.of_policy(policy)
    patch_pipeline(pipe, controller.config)
    reused = images_of(pipe, controller=controller)
    unpatch_pipeline(pipe)
    cache = apply_dqar_cache(pipe.transformer, DQARCacheConfig(policy=policy))
    assert torch.equal(images_of(pipe), reused)
    assert cache.summary().by_step == controller.summary().by_step
    remove_dqar_cache(pipe.transformer)
    with pytest.raises(ValueError, match=r"trained for the model\. Got one of 5 blocks for 3"):
        apply_dqar_cache(pipe.transformer, DQARCacheConfig(policy=planned_policy(num_layers=5)))
    with pytest.raises(ValueError, match="must know its number of steps"):
        DQARCacheConfig(policy=planned_policy(steps=0, plans=(), plan_errors=()))
    snr = planned_policy(plans=(), plan_errors=(), features=("log_snr",))
    with pytest.raises(ValueError, match="must not read the SNR"):
        DQARCacheConfig(policy=snr)


def test_a_plan_with_timesteps_is_followed_from_a_late_step(rig):
    rig.scheduler.set_timesteps(rig.steps)
    plan = export_plan(Interval(2), sites=("attn",), num_layers=LAYERS, scheduler=rig.scheduler)

    def late(model: Any, start: int = 3) -> torch.Tensor:
        latents = rig.noise
        for timestep in rig.scheduler.timesteps[start:]:
            given = {"timestep": timestep.expand(3), "class_labels": rig.labels}
            output = model(latents, **given).sample[:, :1]
            latents = rig.scheduler.step(output, timestep, latents).prev_sample
        return latents

    wrapper = DQARDiTWrapper(rig.model, controller=DQARController(plan.config(), gate=plan.gate()))
    with torch.no_grad(), wrapper.run(rig.scheduler, num_branches=1):
        expected = late(wrapper)
    wrapper.unpatch()
    cache = apply_dqar_cache(rig.model, DQARCacheConfig(plan=plan))
    with torch.no_grad():
        assert torch.equal(late(rig.model), expected)
        assert cache.summary() == wrapper.controller.summary()
        late(rig.model, start=0)
        assert torch.equal(late(rig.model), expected)


@pytest.mark.parametrize("name", ["flux_true_cfg", "sd35_slg", "lumina2_truncated", "z_image"])
def test_guided_pipelines_are_the_wrappers(name):
    pipe = pipe_of(name)
    stock = sampled(name, pipe)
    config = DQARConfig(sites=("block",), **EXACT)
    reused, summary = by_wrapper(name, pipe, config, Interval(2))
    cache = apply_dqar_cache(
        pipe.transformer, DQARCacheConfig(interval=2, sites=("block",), **EXACT)
    )
    assert torch.equal(sampled(name, pipe), reused)
    assert cache.summary().by_step == summary.by_step
    assert torch.equal(sampled(name, pipe), reused)
    other = sampled(name, pipe, samples=1)
    assert other.shape[0] == 1
    assert torch.equal(sampled(name, pipe), reused)
    remove_dqar_cache(pipe.transformer)
    assert torch.equal(sampled(name, pipe), stock)


class Stopped(Exception):
    """Raised in the middle of a run."""


def test_an_interrupted_run_leaves_nothing_behind():
    name = "flux_true_cfg"
    pipe = pipe_of(name)
    apply_dqar_cache(pipe.transformer, DQARCacheConfig(interval=2, sites=("block",), **EXACT))
    whole = sampled(name, pipe)

    def stop_at(stop: int) -> Any:
        def stop_there(_pipe: Any, step: int, _timestep: Any, given: Any) -> Any:
            if step == stop:
                raise Stopped
            return given

        return stop_there

    for stop in (0, 1, 3):
        with pytest.raises(Stopped):
            sampled(name, pipe, callback_on_step_end=stop_at(stop))
        assert torch.equal(sampled(name, pipe), whole)


def test_the_end_of_a_pipelines_call_frees_the_cache():
    pipe = pipe_of("flux_true_cfg")
    cache = apply_dqar_cache(pipe.transformer, DQARCacheConfig(interval=2, sites=("block",)))
    sampled("flux_true_cfg", pipe)
    assert cache.controller.cache.nbytes == 0
    assert cache.summary().reuse_ratio == 0.5
    assert cache.summary().cache_bytes > 0


def test_threads_have_runs_of_their_own():
    name = "flux_true_cfg"
    pipe, other = pipe_of(name), pipe_of(name)
    other.transformer = pipe.transformer
    apply_dqar_cache(pipe.transformer, DQARCacheConfig(interval=2, sites=("block",), **EXACT))
    alone = [sampled(name, pipe), sampled(name, other, samples=1)]
    # Contexts belong to the model, not to a thread, so that two threads cannot use them.
    pipe.transformer.cache_context = lambda *_, **__: nullcontext()
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(sampled, name, pipe), pool.submit(sampled, name, other, 1)]
        found = [future.result() for future in futures]
    assert all(torch.equal(*pair) for pair in zip(found, alone, strict=True))


def plan_of(steps: int = STEPS, layers: int = LAYERS):
    return export_plan(Interval(2), steps=steps, sites=("attn",), num_layers=layers)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "one of plan, policy and interval. Got none"),
        ({"interval": 2, "plan": plan_of()}, "Got plan, interval"),
        ({"plan": plan_of(), "sites": ("ff",)}, "must come with interval"),
        ({"interval": 0}, "interval must be at least 1. Got 0"),
    ],
    ids=["nothing", "two", "sites", "zero"],
)
def test_a_schedule_that_is_none_is_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        DQARCacheConfig(**given)


def test_a_misfit_is_refused_when_it_is_applied(pipe, patches):
    for config, reason in (
        (DQARCacheConfig(plan=plan_of(layers=5)), "num_layers must be the model's|must fit"),
        (DQARCacheConfig(interval=2, sites=("cross",)), "Each site must exist"),
    ):
        with pytest.raises(ValueError, match=reason):
            apply_dqar_cache(pipe.transformer, config)
        assert patches(pipe.transformer) == []
    with pytest.raises(ValueError, match="must have a DQAR cache before"):
        remove_dqar_cache(pipe.transformer)
    apply_dqar_cache(pipe.transformer, DQARCacheConfig(interval=2))
    with pytest.raises(ValueError, match="must have one DQAR cache"):
        apply_dqar_cache(pipe.transformer, DQARCacheConfig(interval=3))


def test_more_steps_than_the_plan_has_are_refused(pipe, images_of):
    cache = apply_dqar_cache(pipe.transformer, DQARCacheConfig(plan=plan_of(steps=4)))
    with pytest.raises(ValueError, match=r"run's number of steps\. Got one for 4"):
        images_of(pipe)
    assert cache.summary().by_step == [0, 6, 0, 6]


def test_steps_that_the_pipeline_names_are_compared_at_once():
    pipe = pipe_of("wan21")
    plan = export_plan(Interval(2), steps=8, sites=("attn",), num_layers=LAYERS)
    apply_dqar_cache(pipe.transformer, DQARCacheConfig(plan=plan))
    with pytest.raises(ValueError, match="Got one for 8, for a run of 6"):
        sampled("wan21", pipe)


SHORT = r"ended after 6 of the schedule's 8 steps"


def test_fewer_steps_than_the_plan_has_are_warned_of():
    """A plan without timesteps was followed in its first rows alone."""
    pipe = pipe_of("flux_true_cfg")
    plan = export_plan(Interval(2), steps=8, sites=("block",), num_layers=5)
    cache = apply_dqar_cache(pipe.transformer, DQARCacheConfig(plan=plan))
    with pytest.warns(UserWarning, match=SHORT):
        sampled("flux_true_cfg", pipe)
    assert cache.summary().reuse_ratio == 0.5
    assert cache.controller.cache.nbytes == 0


def test_a_short_run_that_no_pipeline_ended_is_warned_of_once(rig):
    cache = apply_dqar_cache(rig.model, DQARCacheConfig(plan=plan_of(steps=8)))
    rig.sample()
    with pytest.warns(UserWarning, match=SHORT):
        cache.summary()
    cache.summary()
    rig.sample()
    with pytest.warns(UserWarning, match=SHORT):
        rig.sample()


PATCHES = {
    "wrapper": lambda model: DQARDiTWrapper(model, DQARConfig()),
    "plan": lambda model: PlannedDiT(model, plan_of()),
}


@pytest.mark.parametrize("kind", PATCHES)
def test_a_transformer_is_patched_or_has_a_cache(rig, patches, kind):
    """Both would run its sites."""
    stock = rig.sample()
    apply_dqar_cache(rig.model, DQARCacheConfig(interval=2))
    with pytest.raises(ValueError, match=r"not both\. Got one with a cache"):
        PATCHES[kind](rig.model)
    remove_dqar_cache(rig.model)
    patched = PATCHES[kind](rig.model)
    with pytest.raises(ValueError, match=r"not both\. Got a patched one"):
        apply_dqar_cache(rig.model, DQARCacheConfig(interval=2))
    patched.unpatch()
    assert patches(rig.model) == []
    assert torch.equal(rig.sample(), stock)


def test_a_patched_pipeline_gets_no_cache_beneath_its_offloading():
    from accelerate.hooks import ModelHook, add_hook_to_module

    pipe = patch_pipeline(pipe_of("flux_true_cfg"), DQARConfig(sites=("block",)))
    for block in pipe.transformer.transformer_blocks:
        add_hook_to_module(block, ModelHook())
    for block in pipe.transformer.single_transformer_blocks:
        add_hook_to_module(block, ModelHook())
    with pytest.raises(ValueError, match="Got a patched one"):
        apply_dqar_cache(pipe.transformer, DQARCacheConfig(interval=2))
