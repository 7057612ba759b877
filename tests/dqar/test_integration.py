from __future__ import annotations

from typing import Any

import pytest
import torch

from dqar import patch_dit_pipeline, unpatch_dit_pipeline
from dqar.config import DQARConfig
from dqar.controller import DQARController
from dqar.gates import AllOf, Closed, Gate, Interval, Scripted
from dqar.integration import DQARDDIMSampler, DQARDiTWrapper, SamplerConfig
from dqar.records import FEATURES, GateRecord, Reason

LAYERS, STEPS, SAMPLES = 3, 6, 3
SITES = [("attn",), ("ff",), ("attn", "ff")]
BRANCHES = ["tied", "independent"]
LABELS = torch.tensor([1, 4, 7])

by_sites = pytest.mark.parametrize("sites", SITES, ids="+".join)
by_branches = pytest.mark.parametrize("branch_mode", BRANCHES)


def noise_of(samples: int = SAMPLES) -> torch.Tensor:
    return torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(11))


def config_of(
    sites: tuple[str, ...] = ("attn", "ff"), branch_mode: Any = "tied", bits: Any = 32
) -> DQARConfig:
    return DQARConfig(sites=sites, branch_mode=branch_mode, quantization_bits=bits)


def random_mask(config: DQARConfig, samples: int = SAMPLES, seed: int = 5) -> torch.Tensor:
    columns = samples * (2 if config.branch_mode == "independent" else 1)
    shape = (STEPS, len(config.sites) * LAYERS, columns)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def sample(model: Any, scheduler: Any, *, chosen=slice(None), guidance=4.0, **options):
    sampler_config = SamplerConfig(num_inference_steps=STEPS, guidance_scale=guidance)
    sampler = DQARDDIMSampler(model, scheduler, sampler_config)
    latents, labels = noise_of()[chosen], LABELS[chosen]
    return sampler.sample(len(labels), labels, latents=latents, **options)


class Ran:
    """One sampling run through a wrapper that comes off again."""

    def __init__(self, model, scheduler, config, gate: Gate, *, exposure=False, **options) -> None:
        self.records: list[GateRecord] = []
        self.controller = DQARController(
            config, gate=gate, exposure=exposure, sink=self.records.append
        )
        wrapper = DQARDiTWrapper(model, controller=self.controller)
        self.latents = sample(wrapper, scheduler, **options)
        wrapper.unpatch()

    @property
    def features(self) -> torch.Tensor:
        return torch.stack([record.signal.columns(FEATURES) for record in self.records])

    @property
    def reasons(self) -> torch.Tensor:
        return torch.stack([record.verdict.reason for record in self.records])

    @property
    def local_errors(self) -> torch.Tensor:
        return torch.stack([record.local_rel_error for record in self.records])


def forwards(model) -> list[str]:
    """Modules whose forward is replaced on the instance."""
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def distance(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value - reference).norm() / reference.norm()).item()


# Closed gates change nothing.


@by_sites
@by_branches
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_closed_gates_are_bit_identical(tiny_dit, ddim, sites, branch_mode, guidance):
    stock = sample(tiny_dit, ddim, guidance=guidance)
    config = config_of(sites, branch_mode)
    wrapper = DQARDiTWrapper(tiny_dit, controller=DQARController(config, gate=Closed()))
    assert torch.equal(sample(wrapper, ddim, guidance=guidance), stock)
    assert wrapper.controller.summary().reused == 0


def test_never_config_is_bit_identical(tiny_dit, ddim):
    stock = sample(tiny_dit, ddim)
    wrapper = DQARDiTWrapper(tiny_dit, DQARConfig.never())
    assert torch.equal(sample(wrapper, ddim), stock)
    assert "all refused" in wrapper.controller.summary().note


def test_measuring_every_feature_is_bit_identical(tiny_dit, ddim):
    stock = sample(tiny_dit, ddim)
    for exposure in (False, True):
        ran = Ran(tiny_dit, ddim, config_of(bits=8), Closed(), exposure=exposure)
        assert torch.equal(ran.latents, stock)
        assert ran.features.isfinite().all()


def test_open_gates_change_the_result(tiny_dit, ddim):
    stock = sample(tiny_dit, ddim)
    ran = Ran(tiny_dit, ddim, config_of(), AllOf())
    assert distance(ran.latents, stock) > 1e-3
    assert ran.controller.summary().by_step == [0] + [2 * LAYERS * SAMPLES] * (STEPS - 1)


def test_wrapper_outside_a_run_is_stock(tiny_dit, ddim):
    arguments = {"timestep": torch.full((3,), 500), "class_labels": LABELS}
    stock = tiny_dit(noise_of(), **arguments).sample
    controller = DQARController(config_of(), gate=AllOf())
    wrapper = DQARDiTWrapper(tiny_dit, controller=controller)
    sample(wrapper, ddim)
    asked = controller.summary()
    assert torch.equal(wrapper(noise_of(), **arguments).sample, stock)
    assert torch.equal(tiny_dit(noise_of(), **arguments).sample, stock)
    assert controller.summary() == asked


# Exposure is execution.


@by_sites
@by_branches
def test_replay_of_an_exposure_run_is_the_run(tiny_dit, ddim, sites, branch_mode):
    config = config_of(sites, branch_mode)
    script = Scripted(random_mask(config))
    exposed = Ran(tiny_dit, ddim, config, script, exposure=True)
    skipped = Ran(tiny_dit, ddim, config, script)
    assert torch.equal(exposed.reasons, skipped.reasons)
    torch.testing.assert_close(exposed.features, skipped.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exposed.latents, skipped.latents, atol=1e-5, rtol=1e-5)
    assert exposed.controller.summary() == skipped.controller.summary()


def test_replay_holds_with_an_int8_cache(tiny_dit, ddim):
    config = config_of(bits=8)
    script = Scripted(random_mask(config))
    exposed = Ran(tiny_dit, ddim, config, script, exposure=True)
    skipped = Ran(tiny_dit, ddim, config, script)
    # Computing some rows rounds differently in the last bit, which can move one int8 value.
    torch.testing.assert_close(exposed.features, skipped.features, atol=1e-3, rtol=1e-3)
    assert distance(skipped.latents, exposed.latents) < 1e-3
    assert exposed.features[2:, ..., FEATURES.index("quant_error")].min() > 0


def test_replay_holds_without_guidance(tiny_dit, ddim):
    script = Scripted(random_mask(config_of()))
    exposed = Ran(tiny_dit, ddim, config_of(), script, exposure=True, guidance=1.0)
    skipped = Ran(tiny_dit, ddim, config_of(), script, guidance=1.0)
    torch.testing.assert_close(exposed.features, skipped.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exposed.latents, skipped.latents, atol=1e-5, rtol=1e-5)


@by_branches
def test_sample_does_not_depend_on_its_batch_mates(tiny_dit, ddim, branch_mode):
    config, chosen = config_of(branch_mode=branch_mode), [2, 0]
    mask = random_mask(config)
    together = Ran(tiny_dit, ddim, config, Scripted(mask), exposure=True)
    columns = chosen if branch_mode == "tied" else chosen + [SAMPLES + one for one in chosen]
    fewer = Ran(tiny_dit, ddim, config, Scripted(mask[..., columns]), exposure=True, chosen=chosen)
    torch.testing.assert_close(fewer.latents, together.latents[chosen], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        fewer.features, together.features[:, :, columns], atol=1e-5, rtol=1e-5
    )


def test_first_step_is_cold_and_the_rest_follows_the_script(tiny_dit, ddim):
    mask = random_mask(config_of())
    ran = Ran(tiny_dit, ddim, config_of(), Scripted(mask), exposure=True)
    assert torch.equal(ran.reasons[1:] == Reason.REUSE, mask[1:])
    assert torch.equal(ran.reasons[0] == Reason.COLD, mask[0])
    assert not (ran.reasons[0] == Reason.REUSE).any()


def test_local_error_is_known_wherever_something_was_cached(tiny_dit, ddim):
    config = config_of()
    ran = Ran(tiny_dit, ddim, config, Scripted(random_mask(config)), exposure=True)
    assert ran.local_errors[0].isnan().all()
    assert (ran.local_errors[1:] > 0).all()


def test_local_error_of_a_skipping_run_is_unknown(tiny_dit, ddim):
    config = config_of()
    assert Ran(tiny_dit, ddim, config, Scripted(random_mask(config))).local_errors.isnan().all()


@pytest.mark.parametrize("step", [1, 3, STEPS - 1])
def test_features_are_known_before_the_steps_verdict(tiny_dit, ddim, step):
    config = config_of()
    mask = random_mask(config)
    runs = []
    for verdict in (False, True):
        mask[step] = verdict
        runs.append(Ran(tiny_dit, ddim, config, Scripted(mask.clone()), exposure=True))
    assert torch.equal(runs[0].features[: step + 1], runs[1].features[: step + 1])
    assert not torch.equal(runs[0].latents, runs[1].latents)


def test_features_do_not_read_the_steps_own_output(tiny_dit, ddim):
    config, step = config_of(), 3
    script = Scripted(random_mask(config))
    untouched = Ran(tiny_dit, ddim, config, script, exposure=True)

    def spoil(done: int) -> None:
        if done == step:
            for block in tiny_dit.transformer_blocks:
                block.attn1.to_q.weight.mul_(3.0)
                block.ff.net[2].weight.mul_(3.0)

    spoiled = Ran(tiny_dit, ddim, config, script, exposure=True, on_step=spoil)
    assert torch.equal(spoiled.features[: step + 1], untouched.features[: step + 1])
    assert not torch.equal(spoiled.features[step + 1], untouched.features[step + 1])
    assert not torch.equal(spoiled.local_errors[step], untouched.local_errors[step])


# Skipping skips.


@by_branches
def test_only_the_rows_asked_for_are_computed(tiny_dit, ddim, branch_mode):
    config = config_of(("attn",), branch_mode)
    mask = random_mask(config)
    mask[2], mask[3] = True, False
    counted = torch.zeros(STEPS, LAYERS, dtype=torch.long)
    done = [0]
    for layer, block in enumerate(tiny_dit.transformer_blocks):

        def count(module, args, output, layer=layer):
            counted[done[0], layer] += len(args[0])

        block.attn1.to_q.register_forward_hook(count)
    controller = DQARController(config, gate=Scripted(mask))
    wrapper = DQARDiTWrapper(tiny_dit, controller=controller)
    sample(wrapper, ddim, on_step=lambda steps: done.__setitem__(0, steps))
    rows = (~mask).sum(dim=2) * (2 if branch_mode == "tied" else 1)
    rows[0] = 2 * SAMPLES
    assert torch.equal(counted, rows)


def test_exposure_computes_every_row(tiny_dit, ddim):
    rows = []
    attention = tiny_dit.transformer_blocks[0].attn1
    attention.to_q.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    Ran(tiny_dit, ddim, config_of(), AllOf(), exposure=True)
    assert rows == [2 * SAMPLES] * STEPS


def test_interval_refreshes_on_time(tiny_dit, ddim):
    ran = Ran(tiny_dit, ddim, config_of(("attn",)), Interval(3))
    whole = LAYERS * SAMPLES
    assert ran.controller.summary().by_step == [0, whole, whole, 0, whole, whole]


def test_entropy_is_at_most_that_of_uniform_attention(tiny_dit, ddim):
    ran = Ran(tiny_dit, ddim, config_of(("attn",)), Closed())
    entropy = ran.features[1:, ..., FEATURES.index("entropy")]
    assert entropy.min() > 0
    assert entropy.max() <= torch.tensor(16.0).log() + 1e-5


def test_feed_forward_has_no_entropy(tiny_dit, ddim):
    ran = Ran(tiny_dit, ddim, config_of(("ff",)), Closed())
    assert not ran.features[..., FEATURES.index("entropy")].any()


def test_seed_quick_start_controller_runs(tiny_dit, ddim):
    wrapper = DQARDiTWrapper(tiny_dit, DQARConfig(snr_low=0.0, snr_high=1e9, entropy_threshold=9.0))
    sample(wrapper, ddim)
    summary = wrapper.controller.summary()
    assert summary.gates == STEPS * LAYERS * SAMPLES
    assert 0 < summary.reused < summary.gates
    assert summary.by_reason["warmup"] == 2 * LAYERS * SAMPLES


# Runs.


def test_second_run_does_not_see_the_first(tiny_dit, ddim):
    wrapper = DQARDiTWrapper(tiny_dit, controller=DQARController(config_of(), gate=Interval(2)))
    assert torch.equal(sample(wrapper, ddim), sample(wrapper, ddim))


def test_another_controller_may_sit_in(tiny_dit, ddim):
    stock = sample(tiny_dit, ddim)
    wrapper = DQARDiTWrapper(tiny_dit, controller=DQARController(config_of(), gate=AllOf()))
    guest = DQARController(config_of(), gate=Closed())
    assert torch.equal(sample(wrapper, ddim, controller=guest), stock)
    assert guest.summary().gates == STEPS * 2 * LAYERS * SAMPLES


def test_call_beyond_the_run_is_refused(tiny_dit, ddim):
    arguments = {"timestep": torch.full((3,), 500), "class_labels": LABELS}
    stock = tiny_dit(noise_of(), **arguments).sample
    wrapper = DQARDiTWrapper(tiny_dit, config_of())
    ddim.set_timesteps(1)
    with wrapper.run(ddim, num_branches=1):
        wrapper(noise_of(), **arguments)
        with pytest.raises(ValueError, match=r"once a step\. Got call 2 of 1"):
            wrapper(noise_of(), **arguments)
    assert torch.equal(wrapper(noise_of(), **arguments).sample, stock)


def test_run_that_broke_off_leaves_the_model_stock(tiny_dit, ddim):
    stock = sample(tiny_dit, ddim)
    wrapper = DQARDiTWrapper(tiny_dit, controller=DQARController(config_of(), gate=Interval(2)))
    whole = sample(wrapper, ddim)

    def break_off(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(wrapper, ddim, on_step=break_off)
    assert torch.equal(sample(tiny_dit, ddim), stock)
    assert torch.equal(sample(wrapper, ddim), whole)


def test_controller_of_another_depth_is_refused(tiny_dit, ddim):
    wrapper = DQARDiTWrapper(tiny_dit, controller=DQARController(num_layers=28))
    with pytest.raises(ValueError, match="num_layers must be the model's"):
        sample(wrapper, ddim)


def test_labels_must_match_the_batch(tiny_dit, ddim):
    sampler = DQARDDIMSampler(tiny_dit, ddim)
    with pytest.raises(ValueError, match="class_labels must have one entry a sample"):
        sampler.sample(2, LABELS)


def test_run_without_steps_is_refused():
    with pytest.raises(ValueError, match="num_inference_steps must be at least 1"):
        SamplerConfig(num_inference_steps=0)


def test_seed_gives_the_noise(tiny_dit, ddim):
    sampler = DQARDDIMSampler(tiny_dit, ddim, SamplerConfig(num_inference_steps=2))
    drawn = sampler.sample(3, LABELS, generator=torch.Generator().manual_seed(11))
    assert torch.equal(drawn, sampler.sample(3, LABELS, latents=noise_of()))


# Patches come off.


def test_unpatch_restores_the_model(tiny_dit, ddim):
    stock, before = sample(tiny_dit, ddim), forwards(tiny_dit)
    weights = {name: value.clone() for name, value in tiny_dit.state_dict().items()}
    wrapper = DQARDiTWrapper(tiny_dit, controller=DQARController(config_of(), gate=AllOf()))
    sample(wrapper, ddim)
    assert tiny_dit.state_dict().keys() == weights.keys()
    assert wrapper.unpatch() is tiny_dit
    assert forwards(tiny_dit) == before == []
    assert all(torch.equal(tiny_dit.state_dict()[name], value) for name, value in weights.items())
    assert torch.equal(sample(tiny_dit, ddim), stock)


def test_patches_come_off_in_the_reverse_order(tiny_dit):
    first, second = (DQARDiTWrapper(tiny_dit, config_of()) for _ in range(2))
    with pytest.raises(ValueError, match="must come off in the reverse order"):
        first.unpatch()
    second.unpatch()
    first.unpatch()
    assert forwards(tiny_dit) == []


def test_patch_below_a_patch_comes_back(tiny_dit, ddim):
    stock = sample(tiny_dit, ddim)
    first = DQARDiTWrapper(tiny_dit, controller=DQARController(config_of(), gate=Interval(2)))
    alone = sample(first, ddim)
    second = DQARDiTWrapper(tiny_dit, controller=DQARController(config_of(), gate=Closed()))
    assert torch.equal(sample(second, ddim), stock)
    second.unpatch()
    assert torch.equal(sample(first, ddim), alone)


def test_chunked_feed_forward_is_refused(tiny_dit):
    for block in tiny_dit.transformer_blocks:
        block.set_chunk_feed_forward(4, dim=1)
    with pytest.raises(ValueError, match="Got a chunked feed-forward"):
        DQARDiTWrapper(tiny_dit, config_of(("ff",)))
    DQARDiTWrapper(tiny_dit, config_of(("attn",))).unpatch()


def test_refused_model_is_left_as_it_was(tiny_dit):
    tiny_dit.transformer_blocks[1].set_chunk_feed_forward(4, dim=1)
    with pytest.raises(ValueError, match="chunked"):
        DQARDiTWrapper(tiny_dit, config_of())
    assert forwards(tiny_dit) == []


def test_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match=r"must have transformer_blocks\. Got Linear"):
        DQARDiTWrapper(torch.nn.Linear(2, 2))


# The stock pipeline.


@pytest.fixture
def pipe(ddim):
    """A random latent DiT of 1000 classes with learned sigmas, in diffusers' own pipeline."""
    from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=LAYERS,
            sample_size=8,
            num_embeds_ada_norm=1000,
        )
        vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8)
    pipe = DiTPipeline(transformer=transformer.eval(), vae=vae.eval(), scheduler=ddim)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images_of(pipe, **options):
    generator = torch.Generator().manual_seed(3)
    return pipe(
        class_labels=[207, 360],
        num_inference_steps=STEPS,
        generator=generator,
        output_type="pt",
        **options,
    ).images


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sampler_is_the_stock_pipelines(pipe, guidance):
    images = images_of(pipe, guidance_scale=guidance)
    config = SamplerConfig(num_inference_steps=STEPS, guidance_scale=guidance)
    latents = DQARDDIMSampler(pipe.transformer, pipe.scheduler, config).sample(
        2, torch.tensor([207, 360]), generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    torch.testing.assert_close((decoded / 2 + 0.5).clamp(0, 1), images, atol=1e-6, rtol=0)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_patched_pipeline_takes_a_controller(pipe, guidance):
    stock = images_of(pipe, guidance_scale=guidance)
    assert patch_dit_pipeline(pipe) is pipe
    closed = DQARController(DQARConfig.never())
    assert torch.equal(images_of(pipe, guidance_scale=guidance, controller=closed), stock)
    eager = DQARController(DQARConfig(), gate=Interval(2))
    assert not torch.equal(images_of(pipe, guidance_scale=guidance, controller=eager), stock)
    assert eager.summary().reuse_ratio == 0.5
    assert eager.summary().gates == STEPS * LAYERS * 2


def test_patched_pipeline_runs_without_a_controller(pipe):
    stock = images_of(pipe)
    patch_dit_pipeline(pipe, DQARConfig.never())
    assert torch.equal(images_of(pipe), stock)
    assert pipe.dqar.controller.summary().by_reason == {"closed": STEPS * LAYERS * 2}


def test_unpatched_pipeline_is_the_stock_one(pipe):
    stock, stock_class = images_of(pipe), type(pipe)
    patch_dit_pipeline(pipe)
    images_of(pipe, controller=DQARController(gate=Interval(2)))
    assert type(pipe).__name__ == stock_class.__name__
    assert unpatch_dit_pipeline(pipe) is pipe
    assert type(pipe) is stock_class
    assert not hasattr(pipe, "dqar")
    assert forwards(pipe.transformer) == []
    assert torch.equal(images_of(pipe), stock)


def test_pipeline_is_patched_once(pipe):
    patch_dit_pipeline(pipe)
    with pytest.raises(ValueError, match="must be patched once"):
        patch_dit_pipeline(pipe)
    unpatch_dit_pipeline(pipe)
    patch_dit_pipeline(pipe)


def test_patching_one_pipeline_leaves_others_alone(pipe):
    stock_class = type(pipe)
    patch_dit_pipeline(pipe)
    assert type(pipe) is not stock_class
    assert "controller" not in stock_class.__call__.__code__.co_varnames
