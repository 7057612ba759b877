"""Reuse beside what else is done with a pipeline: half precision, offload, adapters, threads,
copies, compilation."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from dqar.gates.base import AllOf
from dqar.gates.rules import Interval
from dqar.integration import patch_pipeline, unpatch_pipeline
from tests.conformance.gates import OnlySamples
from tests.conformance.replay import only_first
from tests.conformance.sampling import cells, config, controller, replay, sample

pytestmark = pytest.mark.slow

COMPOSED = ("outputs", "stack")
"""Sites of each pipeline; a block is patched as a stack is, and other files run it."""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@cells(*COMPOSED)
def test_half_precision(case, references, sites, dtype):
    """The cache keeps the bits of the model's dtype."""
    stock = sample(references.pipe(case, dtype=dtype), case)
    wanted, _ = replay(references.pipe(case, dtype=dtype), case, sites)
    assert torch.isfinite(wanted).all()
    pipe = patch_pipeline(references.pipe(case, dtype=dtype), config(sites))
    assert torch.equal(sample(pipe, case, controller=controller(sites, OnlySamples())), stock)
    assert torch.equal(sample(pipe, case, controller=controller(sites, Interval(2))), wanted)


def offload_modules(model: nn.Module) -> None:
    """Offload as ``enable_sequential_cpu_offload`` does: the weights of each module are on the
    meta device but while it runs."""
    from accelerate import cpu_offload

    cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)


def offload_groups(model: nn.Module) -> None:
    """Offload groups of blocks by diffusers' hooks."""
    from diffusers.hooks import apply_group_offloading

    cpu = torch.device("cpu")
    apply_group_offloading(model, onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


def adapt(model: nn.Module) -> None:
    """Inject a LoRA adapter with random weights, the same at each call."""
    from peft import LoraConfig, inject_adapter_in_model

    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) and "attn" in name) or name.endswith("to_q")
    }
    targets = sorted(names & {"to_q", "to_k", "to_v", "add_q_proj", "add_k_proj"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        inject_adapter_in_model(
            LoraConfig(r=2, target_modules=targets, init_lora_weights=False), model
        )


IMPOSSIBLE = {("hunyuan_dit", offload_modules): "its stock pipeline reads weights on meta too"}
"""Families that do not run under a change when stock."""
CHANGES = {"modules offloaded": offload_modules, "groups offloaded": offload_groups, "lora": adapt}
by_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


def change_all(pipe: Any, case: Any, change: Any) -> Any:
    if reason := IMPOSSIBLE.get((case.name, change)):
        with pytest.raises(RuntimeError):
            sample(changed(pipe, case, change), case)
        pytest.skip(reason)
    return changed(pipe, case, change)


def changed(pipe: Any, case: Any, change: Any) -> Any:
    for name in case.names:
        change(getattr(pipe, name))
    return pipe


@by_change
@cells(*COMPOSED)
def test_change_before_the_patch(case, pipe, references, sites, change):
    wanted, _ = replay(change_all(references.pipe(case), case, change), case, sites)
    is_changed = not torch.equal(wanted, references.replay(case, sites))
    assert is_changed == (change is adapt)
    patch_pipeline(change_all(pipe, case, change), config(sites))
    assert torch.equal(sample(pipe, case, controller=controller(sites, Interval(2))), wanted)


@by_change
@cells(*COMPOSED)
def test_change_while_patched(case, pipe, references, sites, change):
    wanted, _ = replay(change_all(references.pipe(case), case, change), case, sites)
    change_all(patch_pipeline(pipe, config(sites)), case, change)
    assert torch.equal(sample(pipe, case, controller=controller(sites, Interval(2))), wanted)


@cells(*COMPOSED)
def test_stock_pipeline_in_another_thread(case, pipe, references, sites):
    """A thread reuses while another samples with the same transformer unpatched."""
    parts = {name: part for name, part in pipe.components.items() if name != "scheduler"}
    other = type(pipe)(**parts, **case.options, scheduler=copy.deepcopy(pipe.scheduler))
    other.set_progress_bar_config(disable=True)
    patch_pipeline(pipe, config(sites))
    steered = controller(sites, Interval(2))
    with ThreadPoolExecutor(2) as pool:
        stock = [pool.submit(sample, other, case) for _ in range(1)]
        found = pool.submit(sample, pipe, case, controller=steered)
        assert torch.equal(found.result(), references.replay(case, sites))
        assert torch.equal(stock[0].result(), references.stock(case))


@cells(*COMPOSED)
def test_two_patched_pipelines_in_two_threads(case, pipe, references, sites):
    other = patch_pipeline(references.pipe(case), config(sites))
    patch_pipeline(pipe, config(sites))
    often, always = controller(sites, Interval(2)), controller(sites, AllOf())
    with ThreadPoolExecutor(2) as pool:
        found = pool.submit(sample, pipe, case, controller=often)
        beside = pool.submit(sample, other, case, controller=always)
        assert torch.equal(found.result(), references.replay(case, sites))
        assert torch.equal(beside.result(), references.replay(case, sites, only_first))


@cells(*COMPOSED)
def test_copy_is_patched_alone(case, pipe, references, sites):
    patch_pipeline(pipe, config(sites))
    sample(pipe, case, controller=controller(sites, AllOf()))
    copied = copy.deepcopy(pipe)
    unpatch_pipeline(pipe)
    found = sample(copied, case, controller=controller(sites, Interval(2)))
    assert torch.equal(found, references.replay(case, sites))
    assert torch.equal(sample(pipe, case), references.stock(case))


@pytest.fixture
def dynamo():
    """Reset the state of dynamo before and after a test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("dynamo")
@cells(*COMPOSED)
def test_compiled_transformer(case, pipe, references, sites):
    """The backend runs the graph operator by operator, so that the bits do not change."""
    patch_pipeline(pipe, config(sites))
    for name in case.names:
        getattr(pipe, name).compile(backend="eager")
    found = sample(pipe, case, controller=controller(sites, Interval(2)))
    assert torch.equal(found, references.replay(case, sites))
