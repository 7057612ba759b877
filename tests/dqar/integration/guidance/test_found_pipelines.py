"""The guidance of stock pipelines, found in the calls of their transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conformance.pipelines import CASES
from tests.conformance.pipelines.case import tiny_vae
from tests.dqar.integration.guidance.recording import recorded, recorded_by

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning"),
]
STACKED, BOTH = [("stacked", 4)], [("cond", 2), ("uncond", 2)]
ALONE = [("stacked", 2)]
UNNAMED = [("stacked", 2), ("call 2", 2)]
SKIPPING = [("stacked", 4), ("call 2", 2)]

FOUND: dict[str, list[list[tuple[str, int]]]] = {
    "dit": [STACKED] * 6,
    "sana_sprint": [ALONE] * 6,
    "sd35_slg": [STACKED, *[SKIPPING] * 4, STACKED],
    "flux": [[("cond", 2)]] * 6,
    "flux_true_cfg": [BOTH] * 6,
    "qwen_image": [BOTH] * 6,
    "z_image_truncated": [*[STACKED] * 4, *[[("call 2", 2)]] * 2],
    "lumina2": [UNNAMED] * 6,
    "lumina2_truncated": [*[UNNAMED] * 3, *[ALONE] * 3],
    "wan22": [BOTH] * 6,
    "cogvideox": [[("cond_uncond", 4)]] * 6,
    "mochi": [[("cond_uncond", 4)]] * 6,
}
"""Branches and rows of the calls of each step, of two samples."""


@pytest.mark.parametrize("name", FOUND)
def test_guidance_of_stock_pipelines(name):
    found = recorded(name)
    assert found.steps == list(range(6))
    assert set(found.samples) == {2}
    assert found.calls == FOUND[name]


def test_each_step_of_two_transformers_is_of_one():
    found = recorded("wan22")
    by_step = list(zip(found.layers[::2], found.layers[1::2], strict=True))
    assert all(first == second for first, second in by_step)
    assert len({layers for layers, _ in by_step}) == 2


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("dit", 16), ("pixart_sigma", [3, 4]), ("z_image", [3, 4]), ("wan21", [5, 5])],
)
def test_prompt_lengths_of_the_samples(name, lengths):
    found = recorded(name).lengths
    assert (found if isinstance(found, int) else found.tolist()) == lengths


@pytest.mark.parametrize("samples", [1, 3])
def test_other_numbers_of_samples(samples):
    assert set(recorded("sd3", samples=samples).samples) == {samples}
    assert set(recorded("flux_true_cfg", samples=samples).samples) == {samples}


def pipeline_of(name: str, kind: str, **more: Any) -> Any:
    import diffusers

    case, absent = CASES[name], dict.fromkeys(CASES[name].absent)
    pipe = getattr(diffusers, kind)(**{**absent, **case.components(), **more})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def arguments_of(name: str) -> dict[str, Any]:
    return CASES[name].arguments(2, CASES[name].low)


def test_a_third_branch_that_is_stacked():
    pipe = pipeline_of("pixart_sigma", "PixArtSigmaPAGPipeline", pag_applied_layers=["blocks.1"])
    found = recorded_by(pipe, arguments_of("pixart_sigma") | {"pag_scale": 3.0})
    assert found.calls == [[("stacked", 6)]] * 6
    assert set(found.samples) == {2}


def test_a_timestep_for_each_token():
    pipe = pipeline_of("wan21", "WanPipeline", expand_timesteps=True)
    assert recorded_by(pipe, arguments_of("wan21")).calls == [BOTH] * 6


def test_image_to_image_starts_at_its_own_step():
    pipe = pipeline_of("flux_true_cfg", "FluxImg2ImgPipeline", vae=tiny_vae(4))
    given = arguments_of("flux_true_cfg") | {"image": torch.rand(2, 3, 64, 64), "strength": 0.5}
    del given["latents"]
    found = recorded_by(pipe, given)
    assert found.steps == [3, 4, 5]
    assert found.calls == [UNNAMED] * 3
