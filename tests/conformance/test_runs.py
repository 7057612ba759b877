"""Runs after one another on one patched pipeline, of other sizes and other timesteps."""

from __future__ import annotations

import inspect
import re
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler

from dqar.gates.rules import Interval
from dqar.integration import patch_pipeline
from tests.conformance.gates import OnlySamples
from tests.conformance.pipelines import CASES
from tests.conformance.pipelines.late import LATE, START
from tests.conformance.replay import only_first
from tests.conformance.sampling import (
    WHOLE,
    apart,
    cells,
    config,
    controller,
    replay,
    sample,
    sets_of,
)

pytestmark = pytest.mark.slow
REPEATING = (
    *("pixart_alpha", "pixart_sigma", "sana", "sana_sprint", "flux", "flux_true_cfg"),
    *("qwen_image", "z_image", "hunyuan_video", "wan21", "wan22", "latte"),
)
"""Pipelines that repeat embeddings which are passed in, for several images of each."""
OTHERS: tuple[dict[str, Any], ...] = (
    {"samples": 1},
    {"samples": 3},
    {"tall": True},
    {"num_inference_steps": 4},
    {"samples": 1, "tall": True, "num_inference_steps": 5},
)


@cells(*WHOLE)
def test_second_run_equals_the_first(case, pipe, sites):
    steered = controller(sites, Interval(2))
    patch_pipeline(pipe, config(sites))
    first = sample(pipe, case, controller=steered)
    counts = steered.summary()
    assert torch.equal(sample(pipe, case, controller=steered), first)
    assert steered.summary() == counts
    again = controller(sites, Interval(2))
    assert torch.equal(sample(pipe, case, controller=again), first)


@cells(*WHOLE)
def test_other_sizes_batches_and_steps_on_one_pipeline(case, pipe, references, sites):
    steered = controller(sites, Interval(2))
    patch_pipeline(pipe, config(sites))
    for options in ({}, *OTHERS, {}):
        found = sample(pipe, case, controller=steered, **options)
        assert torch.equal(found, references.replay(case, sites, **options)), options


@cells("outputs", cases=REPEATING)
def test_two_images_of_one_prompt(case, pipe, references, sites):
    """The first image never reuses, the second always."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    number = next(name for name in parameters if re.fullmatch("num_.*_per_prompt", name))

    def options() -> dict[str, Any]:
        of_two = case.arguments(2, case.low)
        noise = {name: of_two[name] for name in ("latents", "generator") if name in of_two}
        return {"samples": 1, number: 2} | noise

    stock = sample(references.pipe(case), case, **options())
    always, _ = replay(references.pipe(case), case, sites, only_first, **options())
    patch_pipeline(pipe, config(sites))
    found = sample(pipe, case, controller=controller(sites, OnlySamples(1)), **options())
    assert len(found) == 2
    assert apart(found[0], stock[0]) <= case.tolerance
    assert apart(found[1], always[1]) <= case.tolerance


@cells(*WHOLE, cases=tuple(name for name, case in CASES.items() if case.start))
def test_own_timesteps(case, pipe, references, sites):
    options = case.start
    steered = controller(sites, Interval(2))
    patch_pipeline(pipe, config(sites))
    found = sample(pipe, case, controller=steered, **options)
    assert torch.equal(found, references.replay(case, sites, **options))


@pytest.mark.parametrize("which", WHOLE)
@pytest.mark.parametrize("case", LATE.values(), ids=list(LATE))
def test_late_start(case, pipe, references, which):
    """Steps are those of the schedule: a run that starts at the fourth computes it and the fifth,
    since nothing is kept at the fourth and the fifth has an even index."""
    sites = sets_of(case)[which]
    steered = controller(sites, Interval(2))
    patch_pipeline(pipe, config(sites))
    found = sample(pipe, case, controller=steered)
    assert torch.equal(found, references.replay(case, sites, first=START))
    assert len(steered.summary().by_step) == case.steps - START


@pytest.mark.parametrize("which", WHOLE)
def test_second_order_solver(references, which):
    """Heun's method calls the transformer twice in all steps but the last."""
    case = CASES["sd3"]
    sites = sets_of(case)[which]

    def second_order() -> Any:
        pipe = references.pipe(case)
        config = pipe.scheduler.config
        pipe.scheduler = FlowMatchHeunDiscreteScheduler(shift=config.shift)
        return pipe

    wanted, clock = replay(second_order(), case, sites)
    assert clock.step == 2 * case.steps - 1
    pipe, steered = second_order(), controller(sites, Interval(2))
    patch_pipeline(pipe, config(sites))
    assert torch.equal(sample(pipe, case, controller=steered), wanted)


def without_guidance(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> Any:
    """A callback that ends the guidance after half of the steps; of stacked prompts the second
    half, the conditional ones, is left."""
    if step == 2:
        pipe._guidance_scale = 1.0
        prompts = {name: value for name, value in tensors.items() if name != "latents"}
        return {name: value[len(value) // 2 :] for name, value in prompts.items()}
    return {}


ENDS = {
    "wan21": ["latents"],
    "wan22": ["latents"],
    "sd3": ["latents", "prompt_embeds", "pooled_prompt_embeds"],
}
"""Tensors of the callback, for pipelines whose guidance a callback can end."""


@cells(*WHOLE, cases=tuple(ENDS))
def test_guidance_that_a_callback_ends(case, pipe, references, sites):
    options = {
        "callback_on_step_end": without_guidance,
        "callback_on_step_end_tensor_inputs": ENDS[case.name],
    }
    wanted, clock = replay(references.pipe(case), case, sites, **options)
    assert clock.calls[0] != clock.calls[-1] or case.name == "sd3"
    steered = controller(sites, Interval(2))
    patch_pipeline(pipe, config(sites))
    assert torch.equal(sample(pipe, case, controller=steered, **options), wanted)


@pytest.mark.parametrize("left_out", [0, 2], ids=["first", "last"])
def test_guidance_that_leaves_out_an_end_of_the_stack(references, left_out):
    """Blocks can be reused one by one. A stack without its first block is refused; a branch without
    the last block computes its stack, beside the reuse of the others."""
    case = CASES["sd35_slg"]
    options: dict[str, Any] = {"skip_guidance_layers": [left_out]}
    pipe = patch_pipeline(references.pipe(case), config(("block",)))
    found = sample(pipe, case, controller=controller(("block",), Interval(2)), **options)
    assert torch.equal(found, references.replay(case, ("block",), **options))
    pipe = patch_pipeline(references.pipe(case), config(("stack",)))
    steered = controller(("stack",), Interval(2))
    refused = pytest.raises(ValueError, match=r"a reused stack must .* Reuse the site block")
    with refused if left_out == 0 else nullcontext():
        sample(pipe, case, controller=steered, **options)
    assert left_out == 0 or steered.summary().reused > 0
