"""Stock pipelines of several families with ``controller=``, patched in place."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from dqar import (
    DQARController,
    export_plan,
    patch_dit_pipeline,
    patch_pipeline,
    unpatch_pipeline,
)
from dqar.config import DQARConfig
from dqar.gates.base import AllOf
from dqar.gates.rules import Interval, NeverReuse
from dqar.integration.wrapper import DQARWrapper
from tests.conformance.pipelines import CASES
from tests.dqar.integration.guidance.recording import pipe_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
BLOCK = DQARConfig(sites=("block",), quantization_bits=32)


def sampled(name: str, pipe: Any, controller: Any = None, samples: int = 2, **options: Any):
    """Latents of a tiny pipeline, under a controller if it is given."""
    case = CASES[name]
    given = case.arguments(samples, case.low) | {"num_inference_steps": 6} | options
    return pipe(**given, **({"controller": controller} if controller else {}))[0]


def reusing() -> DQARController:
    return DQARController(BLOCK, gate=Interval(2))


def test_a_dit_pipeline_is_the_same_by_either_name(pipe, images_of):
    for guidance in (1.0, 4.0):
        found = []
        for patch in (patch_pipeline, patch_dit_pipeline):
            patch(pipe)
            controller = DQARController(gate=Interval(2))
            images = images_of(pipe, guidance_scale=guidance, controller=controller)
            found.append((images, controller.summary()))
            unpatch_pipeline(pipe)
        (one, its), (other, theirs) = found
        assert torch.equal(one, other)
        assert its == theirs


@pytest.mark.parametrize("name", ["flux_true_cfg", "wan22"])
def test_copies_are_patched_with_their_own_transformers(name):
    pipe = pipe_of(name)
    stock, kind = sampled(name, pipe), type(pipe)
    patch_pipeline(pipe, BLOCK)
    reused = sampled(name, pipe, reusing())
    assert not torch.equal(reused, stock)
    for way in (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        copied = way(pipe)
        assert copied.dqar.transformers[-1] is not pipe.dqar.transformers[-1]
        assert isinstance(copied, kind)
        assert torch.equal(sampled(name, copied, reusing()), reused)
        assert torch.equal(sampled(name, unpatch_pipeline(copied)), stock)
    assert torch.equal(sampled(name, unpatch_pipeline(pipe)), stock)
    assert "cache_context" not in vars(pipe.transformer)


def test_a_copied_transformer_alone_is_stock():
    pipe = pipe_of("flux_true_cfg")
    stock = sampled("flux_true_cfg", pipe)
    patch_pipeline(pipe, BLOCK)
    other = pipe_of("flux_true_cfg")
    for way in (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        other.transformer = way(pipe.transformer)
        assert torch.equal(sampled("flux_true_cfg", other), stock)
        assert other.transformer.cache_context.__func__ is type(pipe.transformer).cache_context


def test_threads_share_the_transformer_of_two_pipelines():
    name = "flux_true_cfg"
    pipe, other = pipe_of(name), pipe_of(name)
    other.transformer = pipe.transformer
    pipes = [patch_pipeline(one, BLOCK) for one in (pipe, other)]
    controllers = [reusing(), DQARController(BLOCK, gate=AllOf())]
    options = [{"samples": 2}, {"samples": 1, "true_cfg_scale": 1.0}]
    jobs = list(zip(pipes, controllers, options, strict=True))
    alone = [sampled(name, one, controller, **more) for one, controller, more in jobs]
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(sampled, name, one, controller, **more) for one, controller, more in jobs
        ]
        assert all(
            torch.equal(future.result(), one) for future, one in zip(futures, alone, strict=True)
        )


def test_a_run_within_a_run_leaves_it_as_it_was():
    name = "flux_true_cfg"
    pipe = patch_pipeline(pipe_of(name), BLOCK)
    inner = copy.copy(pipe)
    inner.scheduler = copy.deepcopy(pipe.scheduler)
    assert inner.dqar is pipe.dqar
    alone, found = sampled(name, pipe, reusing()), []

    def sample_another(_pipe: Any, step: int, _timestep: Any, given: Any) -> Any:
        if step == 2:
            found.append(sampled(name, inner, DQARController(BLOCK, gate=AllOf())))
        return given

    again = sampled(name, pipe, reusing(), callback_on_step_end=sample_another)
    assert torch.equal(again, alone)
    assert torch.equal(sampled(name, inner, DQARController(BLOCK, gate=AllOf())), found[0])


def test_the_summary_of_the_last_call_is_the_proof():
    pipe = patch_pipeline(pipe_of("wan22"), BLOCK)
    with pytest.raises(ValueError, match=r"must follow a run\. Got none\. Call the pipeline"):
        pipe.dqar.summary()
    sampled("wan22", pipe, reusing())
    summary = pipe.dqar.summary()
    # Three blocks of one of the two transformers, in six steps of two samples.
    assert (summary.gates, summary.reused) == (36, 18)
    assert [sum(reasons.values()) for reasons in summary.reasons_by_step] == [6] * 6


def test_samples_of_equal_noise_are_decided_separately():
    pipe = patch_pipeline(pipe_of("flux"), BLOCK)
    latents = CASES["flux"].arguments(1, CASES["flux"].low)["latents"].repeat(2, 1, 1)
    sampled("flux", pipe, controller := reusing(), latents=latents)
    assert controller.summary().gates == 6 * 5 * 2


def test_branches_whose_order_is_known_share_values():
    config = DQARConfig(sites=("ff",), quantization_bits=32, cross_branch_threshold=9.0)
    pipe = patch_pipeline(pipe_of("pixart_sigma"), config)
    sampled("pixart_sigma", pipe, controller := DQARController(config, gate=NeverReuse()))
    assert controller.branches == ("uncond", "cond")
    assert controller.summary().note.startswith("No gate reused")
    sampled("pixart_sigma", pipe, controller := DQARController(config, gate=Interval(3)))
    assert controller.summary().shared_by_site["ff"] > 0


def test_branches_in_calls_of_their_own_share_no_values():
    for config in (
        DQARConfig(sites=("ff",), cross_branch_threshold=9.0),
        DQARConfig(sites=("ff",), branch_mode="independent"),
    ):
        pipe = patch_pipeline(pipe_of("flux_true_cfg"), config)
        with pytest.raises(ValueError, match="must be tied, and not share values"):
            sampled("flux_true_cfg", pipe)


def test_branches_of_unknown_order_share_no_values():
    config = DQARConfig(sites=("ff",), cross_branch_threshold=9.0)
    pipe = pipe_of("pixart_sigma")

    class OwnTransformer(type(pipe.transformer)):
        """A transformer whose pipelines are unknown."""

    pipe.transformer.__class__ = OwnTransformer
    patch_pipeline(pipe, config)
    with pytest.raises(ValueError, match=r"whose order is known\. Got 2 stacked ones\. Pass"):
        sampled("pixart_sigma", pipe)
    patch_pipeline(unpatch_pipeline(pipe), config, branches=("uncond", "cond"))
    sampled("pixart_sigma", pipe)
    with pytest.raises(ValueError, match=r"branches must be 'cond' and 'uncond'"):
        patch_pipeline(unpatch_pipeline(pipe), config, branches=("cond",))


def test_what_cannot_be_patched_is_refused_at_once(pipe, patches):
    with pytest.raises(ValueError, match=r"Each site must exist in the model\. Got 'cross'"):
        patch_pipeline(pipe, DQARConfig(sites=("cross",)))
    with pytest.raises(ValueError, match=r"must be patched before it is restored"):
        unpatch_pipeline(pipe)
    transformer, pipe.transformer = pipe.transformer, None
    with pytest.raises(ValueError, match=r"must have a transformer\. Got DiTPipeline with"):
        patch_pipeline(pipe)
    pipe.transformer, pipe.scheduler = transformer, None
    with pytest.raises(ValueError, match=r"must have a scheduler, whose timesteps .* NoneType"):
        patch_pipeline(pipe)
    assert patches(transformer) == []


def test_a_refused_second_transformer_leaves_the_first_stock(patches):
    pipe = pipe_of("wan22")
    pipe.transformer_2.blocks[0].ffn._chunk_size = None
    pipe.transformer_2.blocks[1]._chunk_size = 2
    with pytest.raises(ValueError, match="chunked"):
        patch_pipeline(pipe, BLOCK)
    assert patches(pipe.transformer) == []
    assert not hasattr(pipe, "dqar")


def test_a_replaced_second_transformer_is_refused():
    pipe = patch_pipeline(pipe_of("wan22"), BLOCK)
    pipe.transformer_2 = copy.deepcopy(pipe.transformer_2)
    with pytest.raises(ValueError, match=r"must be the patched one\. Got one that replaced"):
        sampled("wan22", pipe)


def test_a_refused_restoration_leaves_both_transformers_patched():
    """Another pipeline patched the first of the two transformers later."""
    pipe = patch_pipeline(pipe_of("wan22"), BLOCK)
    wanted = sampled("wan22", pipe, reusing())
    later = DQARWrapper([pipe.transformer], BLOCK)
    with pytest.raises(ValueError, match="Patches must come off in the reverse order"):
        unpatch_pipeline(pipe)
    assert torch.equal(sampled("wan22", pipe, reusing()), wanted)
    later.unpatch()
    stock = sampled("wan22", unpatch_pipeline(pipe))
    assert torch.equal(stock, sampled("wan22", pipe_of("wan22")))


def test_a_branch_that_leaves_out_the_last_block_computes_its_stack():
    """A branch without the last block has no exit from the stack, so that it caches nothing."""
    pipe, layers = pipe_of("sd35_slg"), [2]
    stock = sampled("sd35_slg", pipe, skip_guidance_layers=layers)
    stack = DQARConfig(sites=("stack",), quantization_bits=32)
    patch_pipeline(pipe, stack)
    steered = DQARController(stack, gate=Interval(2))
    found = sampled("sd35_slg", pipe, steered, skip_guidance_layers=layers)
    assert not torch.equal(found, stock)
    assert steered.summary().reused > 0


@pytest.mark.parametrize(("site", "layers"), [("stack", 5), ("block", 4)])
def test_a_plan_of_another_model_is_refused(site, layers):
    """Flux has two stacks; a plan of one gate was followed by both."""
    pipe = pipe_of("flux_true_cfg")
    plan = export_plan(Interval(2), steps=6, sites=(site,), num_layers=layers)
    patch_pipeline(pipe, plan.config())
    controller = DQARController(plan.config(), gate=plan.gate())
    with pytest.raises(ValueError, match=r"must be of .* Got one of \d"):
        sampled("flux_true_cfg", pipe, controller)
