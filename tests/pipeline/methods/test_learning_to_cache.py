"""Learning-to-Cache: mixtures of outputs, the effect of a penalty, and an unchanged model."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.rules import MaskGate
from dqar.integration import DQARDiTWrapper, DQARSampler, SamplerConfig
from pipeline.evaluate.answer_cache import ResultCache
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.learning_to_cache import (
    PERIODS,
    Routers,
    RouterTask,
    learn_routers,
    router_points,
    router_tasks,
)
from pipeline.methods.registry import method_names
from pipeline.methods.site_mixing import Mixer, patch_with_mixing
from pipeline.methods.stock_runs import by_sample, record_calls

STEPS, SCALE = 6, 2.0
SITES = ("attn", "ff")
CACHED = [(("attn", "ff"), "output"), (("attn",), "kv"), (("block",), "output")]


def sampler(model, scheduler):
    config = SamplerConfig(num_inference_steps=STEPS, guidance_scale=SCALE)
    return DQARSampler(model, scheduler, config)


def sample(model, scheduler, **given):
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    return sampler(model, scheduler).sample(2, [1, 4], latents=noise, **given)


def guided(output):
    cond, uncond = output.chunk(2)
    return uncond + SCALE * (cond - uncond)


def stock_steps(model, scheduler):
    with record_calls(model) as steps:
        sample(model, scheduler)
    return steps


def learned(model, scheduler, *, epochs=24, **settings):
    probe = RouterTask(num_samples=2, epochs=epochs, **settings)
    with patch_with_mixing(model, SITES) as mixer:
        runs = by_sample(stock_steps(model, scheduler), 2)
        return learn_routers(model, mixer, runs, probe, guided).share


# The mixture.


@pytest.mark.parametrize(("sites", "cached"), CACHED)
def test_a_share_of_none_or_all_is_what_execution_does(tiny_dit, ddim, sites, cached):
    gates = 3 * len(sites)
    generator = torch.Generator().manual_seed(5)
    reuse = torch.rand(STEPS, gates, generator=generator) < 0.6
    reuse[0] = False
    shares = iter((~reuse).float())

    def next_share(*_):
        # Four rows: two guidance branches of two samples.
        mixer.share = next(shares).expand(4, gates)

    with patch_with_mixing(tiny_dit, sites, cached) as mixer:
        # Fills the cache: step 0 of the next run would have nothing to mix with.
        sample(tiny_dit, ddim)
        handle = tiny_dit.register_forward_pre_hook(next_share)
        mixed = sample(tiny_dit, ddim)
        handle.remove()
    config = DQARConfig(sites=sites, cached=cached, quantization_bits=32)
    controller = DQARController(config, gate=MaskGate(reuse[:, :, None]))
    stock = sample(tiny_dit, ddim)
    executed = sample(DQARDiTWrapper(tiny_dit, config), ddim, controller=controller)
    assert (executed - stock).abs().max() > 1e-3
    torch.testing.assert_close(mixed, executed, rtol=1e-5, atol=1e-5)


def test_a_mixture_is_cached_and_blames_no_step_before():
    mixer = Mixer()
    one, two = torch.ones(1, 1, 2), torch.full((1, 1, 2), 3.0)
    assert mixer.mixed(0, 0, one) is one
    share = torch.tensor([[0.25]], requires_grad=True)
    mixer.share = share
    first = mixer.mixed(0, 0, two)
    assert first.flatten().tolist() == [1.5, 1.5]
    second = mixer.mixed(0, 0, two)
    assert second.flatten().tolist() == [1.875, 1.875]
    second.sum().backward()
    # d second / d share = 2 * (two - first): the gradient through first is detached.
    assert share.grad is not None
    assert share.grad.item() == 3.0


def test_the_model_is_left_as_it_was(tiny_dit, ddim):
    stock = sample(tiny_dit, ddim)
    learned(tiny_dit, ddim, epochs=1)
    with (
        pytest.raises(KeyboardInterrupt),
        record_calls(tiny_dit),
        patch_with_mixing(tiny_dit, SITES),
    ):
        raise KeyboardInterrupt
    assert not any(module._forward_hooks for module in tiny_dit.modules())
    assert not any(weight.requires_grad for weight in tiny_dit.parameters())
    assert torch.equal(sample(tiny_dit, ddim), stock)


# What is recorded.


def test_a_sample_is_its_branches_each_so_many_times(tiny_dit, ddim):
    step = stock_steps(tiny_dit, ddim)[2]
    rows = step.of_sample(1, 2).repeated(3)
    for name in ("latents", "timesteps", "labels", "output"):
        whole, mine = getattr(step, name), getattr(rows, name)
        assert torch.equal(mine, torch.cat([whole[1:2]] * 3 + [whole[3:4]] * 3))
    assert rows.labels.tolist() == [4, 4, 4, 10, 10, 10]


def test_every_step_is_recorded_with_its_answer(tiny_dit, ddim):
    steps = stock_steps(tiny_dit, ddim)
    assert len(steps) == STEPS
    for step in steps:
        again = tiny_dit(step.latents, timestep=step.timesteps, class_labels=step.labels).sample
        assert torch.equal(again, step.output)


# What is learned.


@pytest.mark.parametrize("period", [2, 3])
def test_no_penalty_computes_all_and_a_large_one_nothing(tiny_dit, ddim, period):
    free, dear = learned(tiny_dit, ddim, period=period, penalties=(0.0, 1e3))
    assert (free > 0.5).all()
    routed = torch.arange(STEPS) % period > 0
    assert (dear[routed] < 0.5).all()
    assert (dear[~routed] == 1.0).all()


def test_what_does_not_show_is_the_first_to_go(tiny_dit, ddim):
    # The adaLN gate of block 1 multiplies the output of its feed-forward network by 0.
    projection = tiny_dit.transformer_blocks[1].norm1.linear
    width = projection.weight.shape[1]
    projection.weight[5 * width :] = 0.0
    projection.bias[5 * width :] = 0.0
    (share,) = learned(tiny_dit, ddim, penalties=(1e-9,))
    unseen = len(tiny_dit.transformer_blocks) + 1
    assert (share[1::2, unseen] < 0.5).all()
    assert (share[1::2, :unseen] > 0.5).all()


def test_penalties_are_learned_as_if_alone(tiny_dit, ddim):
    both = learned(tiny_dit, ddim, penalties=(1e-4, 1e-1), epochs=4)
    alone = [learned(tiny_dit, ddim, penalties=(one,), epochs=4)[0] for one in (1e-4, 1e-1)]
    torch.testing.assert_close(both, torch.stack(alone), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        *({"period": 1}, {"num_samples": 0}, {"at_once": 0}, {"epochs": 0}, {"penalties": ()}),
        *({"penalties": (-1.0,)}, {"penalties": (float("nan"),)}, {"learning_rate": 0.0}),
    ],
)
def test_a_probe_of_nothing_is_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        RouterTask(**changes)


# Points.


def test_points_compute_what_is_mostly_computed():
    share = torch.tensor([[[1.0, 1.0], [0.9, 0.4]], [[1.0, 1.0], [0.1, 0.2]]])
    points = router_points([(RouterTask(penalties=(1e-3, 1e-2)), Routers(share=share))])
    assert [point.operating_point for point in points] == [
        "period=2,penalty=0.001",
        "period=2,penalty=0.01",
    ]
    assert {point.method for point in points} == {"router"} <= set(method_names())
    gates = [point.gate for point in points if isinstance(point.gate, MaskGate)]
    assert [gate.reuse[:, :, 0].tolist() for gate in gates] == [
        [[False, False], [False, True]],
        [[False, False], [True, True]],
    ]


def test_equal_routers_are_one_point_and_none_reuses_nothing():
    share = torch.tensor([[[1.0], [0.8]], [[1.0], [0.2]], [[1.0], [0.1]]])
    probe = RouterTask(penalties=(1e-4, 1e-3, 1e-2))
    longer = replace(probe, period=3), Routers(share=share.flip(0))
    points = router_points([(probe, Routers(share=share)), longer])
    assert [point.operating_point for point in points] == ["period=2,penalty=0.001"]


def test_routers_that_diverged_are_no_answer():
    with pytest.raises(ValueError, match=r"diverged.*leave router out"):
        Routers(share=torch.tensor([[[1.0], [float("nan")]]]))


def test_probes_differ_by_period():
    assert [probe.period for probe in router_tasks()] == list(PERIODS)


# The worker.


@pytest.fixture(scope="module")
def answer():
    """Learn routers of the shipped model on a worker, with ten updates."""
    config = EvaluateConfig(
        model="digits", steps=STEPS, guidance_scale=SCALE, sites=SITES, num_samples=4, batch_size=4
    )
    probe = RouterTask(num_samples=2, epochs=10, penalties=(1e-4, 1e-2, 1e2))
    evaluator = EvaluationWorker(config)
    return evaluator, probe, evaluator.calibrate(probe)


def test_a_worker_learns_what_a_penalty_buys(answer):
    evaluator, probe, routers = answer
    assert routers.share.shape == (3, STEPS, 16)
    reused = (routers.share < 0.5).float().mean(dim=(1, 2))
    assert all(less <= more for less, more in itertools.pairwise(reused.tolist()))
    rows = [evaluator.measure(point).row for point in router_points([(probe, routers)])]
    assert rows
    assert rows[-1]["reuse_ratio"] == 0.5
    assert rows[-1]["latent_rel_l2"] > 0


def test_stock_runs_are_the_same_in_batches(answer):
    evaluator, probe, routers = answer
    alone = evaluator.calibrate(replace(probe, at_once=1))
    torch.testing.assert_close(alone.share, routers.share, rtol=1e-3, atol=1e-3)


def test_one_branch_is_learned_from_too():
    config = EvaluateConfig(model="digits", steps=2, guidance_scale=1.0, num_samples=1)
    probe = RouterTask(num_samples=1, epochs=1, penalties=(1e-2,))
    answer = EvaluationWorker(config).do(probe)
    assert isinstance(answer, Routers)
    assert answer.share.shape == (1, 2, 8)


def test_an_answer_is_kept_to_the_last_bit(answer, tmp_path):
    _, probe, routers = answer
    kept = ResultCache(tmp_path / "_points", "claim")
    kept.keep(probe, routers)
    found = kept.take(probe)
    assert isinstance(found, Routers)
    assert torch.equal(found.share, routers.share)
    assert kept.take(replace(probe, period=3)) is None
