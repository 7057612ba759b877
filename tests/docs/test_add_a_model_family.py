"""The family of docs/add_a_model_family.md, added as the page says, passes checks of the suite."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dqar.config import DQARConfig
from dqar.integration import families, patch_pipeline
from dqar.integration.engine.lookup import known_families
from tests.conformance import sampling, test_closed, test_reuse
from tests.conformance.pipelines.case import Case, noise_of, randomise
from tests.docs.markdown_pages import blocks_of

WIDTH, LAYERS = 8, 3
BLOCKS, FILE = [block.code for block in blocks_of("docs/add_a_model_family.md", "python")]


def toy_pipeline() -> Any:
    """A pipeline of diffusers around the page's blocks; guidance stacks [uncond; cond]."""
    from diffusers import ConfigMixin, DDIMScheduler, DiffusionPipeline, ModelMixin
    from diffusers.configuration_utils import register_to_config

    page: dict[str, Any] = {}
    exec(BLOCKS, page)

    class ToyTransformer(ModelMixin, ConfigMixin):
        @register_to_config
        def __init__(self, num_heads: int = 1) -> None:
            super().__init__()
            del num_heads
            self.layers = nn.ModuleList([page["ToyBlock"](WIDTH) for _ in range(LAYERS)])

        def forward(self, hidden_states, encoder_hidden_states, timestep, return_dict=False):
            tokens, text = hidden_states, encoder_hidden_states
            shift = torch.cos(timestep / 1000).reshape(-1, 1, 1).expand(len(tokens), 1, 1)
            for layer in self.layers:
                text, tokens = layer(tokens, text, shift=shift)
            return (tokens,)

    class ToyPipeline(DiffusionPipeline):
        def __init__(self, transformer, scheduler) -> None:
            super().__init__()
            self.register_modules(transformer=transformer, scheduler=scheduler)

        @torch.no_grad()
        def __call__(self, prompt_embeds, latents, num_inference_steps=6):
            self.scheduler.set_timesteps(num_inference_steps)
            text = torch.cat([torch.zeros_like(prompt_embeds), prompt_embeds])
            for timestep in self.scheduler.timesteps:
                both = torch.cat([latents, latents])
                (noise,) = self.transformer(both, text, timestep=timestep.expand(len(both)))
                uncond, cond = noise.chunk(2)
                guided = uncond + 2 * (cond - uncond)
                latents = self.scheduler.step(guided, timestep, latents).prev_sample
            return (latents,)

    pipe: Any = ToyPipeline(randomise(ToyTransformer()), DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def arguments(samples: int, height: int) -> dict[str, Any]:
    prompts = noise_of(samples, 4, WIDTH, first=1)
    return {"prompt_embeds": prompts, "latents": noise_of(samples, height // 8, WIDTH)}


CASE = Case(
    name="toy",
    pipeline="ToyPipeline",
    components=dict,
    absent=(),
    arguments=arguments,
    sites={"attn": ("layers.*.mixer",), "ff": ("layers.*.mlp",)},
    blocks=("layers.*",),
    streams=("text", "tokens"),
)


class References:
    """Runs of the stock pipeline and of the independent replay."""

    def pipe(self, case: Case) -> Any:
        del case
        return toy_pipeline()

    def stock(self, case: Case) -> Any:
        return sampling.sample(toy_pipeline(), case)

    def replay(self, case: Case, sites: tuple[str, ...], computes: Any) -> Any:
        return sampling.replay(toy_pipeline(), case, sites, computes)[0]


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The page's file in a folder of :mod:`dqar.integration.families`."""
    (tmp_path / "toy.py").write_text(FILE)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    known_families.cache_clear()
    yield
    known_families.cache_clear()
    sys.modules.pop(f"{families.__name__}.toy", None)


def run(check: Callable[..., None], sites: tuple[str, ...]) -> None:
    given = {"case": CASE, "pipe": toy_pipeline(), "references": References(), "sites": sites}
    check(**{name: given[name] for name in inspect.signature(check).parameters})


def test_sites_within_blocks_are_refused_without_the_file():
    with pytest.raises(ValueError, match="Got 'attn' for a model with block, stack"):
        patch_pipeline(toy_pipeline(), DQARConfig(sites=("attn",)))


@pytest.mark.parametrize("sites", [("block",), ("stack",)], ids=",".join)
def test_blocks_and_stacks_need_no_file(sites):
    run(test_reuse.test_every_second_step_equals_the_replay, sites)


@pytest.mark.parametrize("sites", [("attn", "ff"), ("block",), ("stack",)], ids=",".join)
@pytest.mark.parametrize(
    "check",
    [
        test_closed.test_closed_gates_change_no_bit,
        test_reuse.test_every_second_step_equals_the_replay,
        test_reuse.test_samples_of_a_mixed_batch_are_as_alone,
        test_reuse.test_modules_are_called_as_often_as_planned,
    ],
    ids=lambda check: check.__name__,
)
def test_the_family_passes_the_suite(added, check, sites):
    run(check, sites)
