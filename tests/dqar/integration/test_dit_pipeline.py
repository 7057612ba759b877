"""The DiT pipeline of diffusers, with ``controller=`` and on a patched transformer."""

from __future__ import annotations

import copy

import pytest
import torch

from dqar import patch_dit_pipeline, unpatch_dit_pipeline
from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.rules import Interval
from dqar.integration import DQARDDIMSampler, DQARDiTWrapper, SamplerConfig

STEPS, LAYERS = 6, 3

by_guidance = pytest.mark.parametrize("guidance", [1.0, 4.0])


@by_guidance
def test_sampler_is_the_stock_pipelines(pipe, images_of, guidance):
    images = images_of(pipe, guidance_scale=guidance)
    config = SamplerConfig(num_inference_steps=STEPS, guidance_scale=guidance)
    latents = DQARDDIMSampler(pipe.transformer, pipe.scheduler, config).sample(
        2, torch.tensor([207, 360]), generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    torch.testing.assert_close((decoded / 2 + 0.5).clamp(0, 1), images, atol=1e-6, rtol=0)


@by_guidance
def test_patched_pipeline_takes_a_controller(pipe, images_of, guidance):
    stock = images_of(pipe, guidance_scale=guidance)
    assert patch_dit_pipeline(pipe) is pipe
    closed = DQARController(DQARConfig.never())
    assert torch.equal(images_of(pipe, guidance_scale=guidance, controller=closed), stock)
    eager = DQARController(DQARConfig(), gate=Interval(2))
    assert not torch.equal(images_of(pipe, guidance_scale=guidance, controller=eager), stock)
    assert eager.summary().reuse_ratio == 0.5
    assert eager.summary().gates == STEPS * LAYERS * 2


def test_patched_pipeline_runs_without_a_controller(pipe, images_of):
    stock = images_of(pipe)
    patch_dit_pipeline(pipe, DQARConfig.never())
    assert torch.equal(images_of(pipe), stock)
    assert pipe.dqar.controller.summary().by_reason == {"closed": STEPS * LAYERS * 2}


def test_patched_pipeline_caches_keys_and_values(pipe, images_of):
    stock = images_of(pipe)
    patch_dit_pipeline(pipe, DQARConfig(cached="kv"))
    closed = DQARController(DQARConfig(enabled=False, cached="kv"))
    assert torch.equal(images_of(pipe, controller=closed), stock)
    eager = DQARController(DQARConfig(cached="kv", cross_branch_threshold=9.0), gate=Interval(2))
    assert not torch.equal(images_of(pipe, controller=eager), stock)
    whole = LAYERS * 2
    assert eager.summary().by_reason == {"reuse": 3 * whole, "interval": whole, "shared": 2 * whole}


def test_unpatched_pipeline_is_the_stock_one(pipe, images_of, patches):
    stock, stock_class = images_of(pipe), type(pipe)
    patch_dit_pipeline(pipe)
    images_of(pipe, controller=DQARController(gate=Interval(2)))
    assert type(pipe).__name__ == stock_class.__name__
    assert unpatch_dit_pipeline(pipe) is pipe
    assert type(pipe) is stock_class
    assert not hasattr(pipe, "dqar")
    assert patches(pipe.transformer) == []
    assert torch.equal(images_of(pipe), stock)


def test_pipeline_is_patched_once(pipe):
    patch_dit_pipeline(pipe)
    with pytest.raises(ValueError, match="must be patched once"):
        patch_dit_pipeline(pipe)
    unpatch_dit_pipeline(pipe)
    patch_dit_pipeline(pipe)


def test_replaced_transformer_is_refused(pipe, images_of):
    stock = images_of(pipe)
    patch_dit_pipeline(pipe)
    patched, pipe.transformer = pipe.transformer, copy.deepcopy(pipe.transformer)
    with pytest.raises(ValueError, match=r"must be the patched one\. Got one that replaced it"):
        images_of(pipe)
    patch_dit_pipeline(unpatch_dit_pipeline(pipe))
    reused = images_of(pipe, controller=DQARController(gate=Interval(2)))
    assert not torch.equal(reused, stock)
    assert patched is not pipe.transformer
    assert torch.equal(images_of(unpatch_dit_pipeline(pipe)), stock)


STRANGERS = {"config": DQARConfig(), "gate": Interval(2), "text": "learned"}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS)
def test_controller_that_is_none_is_refused(pipe, images_of, stranger):
    patch_dit_pipeline(pipe)
    kind = type(stranger).__name__
    with pytest.raises(ValueError, match=f"controller= must be a DQARController. Got {kind}"):
        images_of(pipe, controller=stranger)


def test_patching_one_pipeline_leaves_others_alone(pipe):
    stock_class = type(pipe)
    patch_dit_pipeline(pipe)
    assert type(pipe) is not stock_class
    assert "controller" not in stock_class.__call__.__code__.co_varnames


def test_stock_pipeline_runs_on_a_patched_transformer(pipe, images_of):
    stock = images_of(pipe)
    wrapper = DQARDiTWrapper(
        pipe.transformer, controller=DQARController(DQARConfig(), gate=Interval(2))
    )
    assert torch.equal(images_of(pipe), stock)
    with wrapper.run(pipe.scheduler, num_branches=2) as controller:
        reused = images_of(pipe)
    assert controller.summary().reuse_ratio == 0.5
    assert torch.equal(images_of(pipe), stock)
    patch_dit_pipeline(pipe, DQARConfig.never())
    again = images_of(pipe, controller=DQARController(DQARConfig(), gate=Interval(2)))
    assert torch.equal(again, reused)


def test_wrapped_transformer_has_the_models_device_and_dtype(pipe):
    wrapper = DQARDiTWrapper(pipe.transformer.to(torch.bfloat16))
    assert wrapper.dtype == torch.bfloat16
    assert wrapper.device == torch.device("cpu")
    assert wrapper.config is pipe.transformer.config
