"""A cache beside offloading, adapters, compilation and other hooks of diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook as AccelerateHook
from accelerate.hooks import add_hook_to_module, remove_hook_from_module
from diffusers.hooks import HookRegistry, ModelHook, apply_group_offloading
from peft import LoraConfig, inject_adapter_in_model

from dqar import DQARCacheConfig, apply_dqar_cache, remove_dqar_cache
from tests.conformance.pipelines import CASES
from tests.dqar.integration.guidance.recording import pipe_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NAME = "flux_true_cfg"
CONFIGS = {
    "outputs": DQARCacheConfig(interval=2, sites=("attn", "ff"), quantization_bits=32),
    "block": DQARCacheConfig(interval=2, sites=("block",), quantization_bits=32),
}
by_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def sampled(pipe: Any) -> torch.Tensor:
    case = CASES[NAME]
    return pipe(**case.arguments(2, case.low), num_inference_steps=4)[0]


@pytest.fixture
def pipe() -> Any:
    return pipe_of(NAME)


def forwards_of(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@pytest.fixture
def reference(pipe) -> Any:
    """Latents with a cache alone."""

    def reused(config: DQARCacheConfig) -> torch.Tensor:
        apply_dqar_cache(pipe.transformer, config)
        latents = sampled(pipe)
        remove_dqar_cache(pipe.transformer)
        return latents

    return reused


def group_offload(model: Any) -> None:
    apply_group_offloading(
        model,
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
    )


@by_config
def test_group_offloading_beside_a_cache(pipe, reference, config):
    stock, reused = sampled(pipe), reference(config)
    apply_dqar_cache(pipe.transformer, config)
    group_offload(pipe.transformer)
    assert torch.equal(sampled(pipe), reused)
    assert torch.equal(sampled(pipe), reused)
    remove_dqar_cache(pipe.transformer)
    assert torch.equal(sampled(pipe), stock)


@by_config
def test_accelerates_hooks_are_put_back_after_each_call(pipe, reference, config):
    """As ``enable_model_cpu_offload`` does, which replaces the transformer's ``forward``."""
    stock, reused = sampled(pipe), reference(config)
    add_hook_to_module(pipe.transformer, AccelerateHook())
    apply_dqar_cache(pipe.transformer, config)
    for _ in range(3):
        assert torch.equal(sampled(pipe), reused)
        remove_hook_from_module(pipe.transformer, recurse=True)
        add_hook_to_module(pipe.transformer, AccelerateHook())
    remove_dqar_cache(pipe.transformer)
    assert torch.equal(sampled(pipe), stock)
    assert hasattr(pipe.transformer, "_hf_hook")


@by_config
def test_adapters_are_loaded_into_a_cached_model(pipe, config):
    def load() -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            adapter = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
            inject_adapter_in_model(adapter, pipe.transformer)

    plain = sampled(pipe)
    cache = apply_dqar_cache(pipe.transformer, config)
    load()
    after = sampled(pipe)
    remove_dqar_cache(pipe.transformer)
    assert not torch.equal(sampled(pipe), plain)
    cache = apply_dqar_cache(pipe.transformer, config)
    assert torch.equal(sampled(pipe), after)
    assert cache.summary().reuse_ratio == 0.5


@by_config
@pytest.mark.parametrize("order", ["compiled first", "cached first"])
def test_a_compiled_model_has_the_same_numbers(pipe, reference, config, order):
    reused = reference(config)
    torch._dynamo.reset()
    if order == "cached first":
        apply_dqar_cache(pipe.transformer, config)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    if order == "compiled first":
        sampled(pipe)
        apply_dqar_cache(pipe.transformer, config)
    assert torch.equal(sampled(pipe), reused)
    assert torch.equal(sampled(pipe), reused)


class Counting(ModelHook):
    """Another hook, which counts the calls that reach it."""

    calls = 0

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


@pytest.mark.parametrize("is_inner", [False, True])
def test_other_hooks_may_come_and_go(pipe, reference, is_inner):
    config = CONFIGS["block"]
    stock, reused, counting = sampled(pipe), reference(config), Counting()
    block = pipe.transformer.transformer_blocks[0]

    def add_other() -> None:
        HookRegistry.check_if_exists_or_initialize(block).register_hook(counting, "other")

    if is_inner:
        add_other()
    apply_dqar_cache(pipe.transformer, config)
    if not is_inner:
        add_other()
    assert torch.equal(sampled(pipe), reused)
    # Two branches in four steps; an inner hook sees the computed ones alone.
    assert counting.calls == (4 if is_inner else 8)
    remove_dqar_cache(pipe.transformer)
    assert torch.equal(sampled(pipe), stock)
    assert counting.calls == (12 if is_inner else 16)
    block._diffusers_hook.remove_hook("other")
    assert torch.equal(sampled(pipe), stock)


def test_a_removed_cache_leaves_no_forward_behind(pipe):
    apply_dqar_cache(pipe.transformer, CONFIGS["outputs"])
    sampled(pipe)
    assert forwards_of(pipe.transformer)
    remove_dqar_cache(pipe.transformer)
    assert forwards_of(pipe.transformer) == []
    hooks = [len(module._forward_pre_hooks) for module in pipe.transformer.modules()]
    assert not any(hooks)
