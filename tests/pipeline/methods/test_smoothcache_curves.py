"""Curves of runs of the stock model: equal to a plain computation, and an unchanged model."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from dqar.integration import DQARSampler, SamplerConfig
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.smoothcache import CurveRecorder, CurveTask, measure_curves, relative_l1

STEPS, GAPS = 5, 3
MODULES = {
    ("attn", "output"): lambda block: [block.attn1],
    ("ff", "output"): lambda block: [block.ff],
    ("block", "output"): lambda block: [block],
    ("attn", "kv"): lambda block: [block.attn1.to_k, block.attn1.to_v],
}
"""Modules of a block whose outputs each site caches, written out independently."""


def sample(model, scheduler):
    """Run the stock model on two samples with guidance, so that a batch has four rows."""
    config = SamplerConfig(num_inference_steps=STEPS, guidance_scale=2.0)
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    return DQARSampler(model, scheduler, config).sample(2, [1, 4], latents=noise)


def seen(module, scheduler, model, is_block):
    """Return the outputs of a module at each step, ``[t, r, n, d]``."""
    found = []

    def keep(_, args, output):
        found.append((output - args[0] if is_block else output).clone())

    handle = module.register_forward_hook(keep)
    sample(model, scheduler)
    handle.remove()
    return torch.stack(found).double().numpy()


def by_hand(outputs, gap, step):
    """Compute the relative L1 distance row by row."""
    ratios = [
        np.abs(now - before).sum() / np.abs(now).sum()
        for now, before in zip(outputs[step], outputs[step - gap], strict=True)
    ]
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize(("site", "cached"), MODULES, ids=" ".join)
def test_curves_by_hand(tiny_dit, ddim, site, cached):
    with measure_curves(tiny_dit, (site,), cached, GAPS) as watch:
        sample(tiny_dit, ddim)
    curves = watch.curves()
    assert curves.shape == (1, 3, GAPS, STEPS)
    for layer, block in enumerate(tiny_dit.transformer_blocks):
        modules = MODULES[site, cached](block)
        outputs = [seen(module, ddim, tiny_dit, site == "block") for module in modules]
        for gap, step in itertools.product(range(1, GAPS + 1), range(STEPS)):
            found = float(curves[0, layer, gap - 1, step])
            if step < gap:
                assert np.isnan(found)
            else:
                mean = np.mean([by_hand(one, gap, step) for one in outputs])
                assert found == pytest.approx(mean, rel=1e-4)


def test_sites_and_layers_lie_in_their_order(tiny_dit, ddim):
    alone = {}
    for site in ("attn", "ff"):
        with measure_curves(tiny_dit, (site,), "output", GAPS) as watch:
            sample(tiny_dit, ddim)
        alone[site] = watch.curves()[0]
    with measure_curves(tiny_dit, ("ff", "attn"), "output", GAPS) as watch:
        sample(tiny_dit, ddim)
    torch.testing.assert_close(
        watch.curves(), torch.stack([alone["ff"], alone["attn"]]), equal_nan=True
    )


def test_only_the_last_outputs_are_held():
    watch = CurveRecorder(2)
    for step in range(6):
        watch.note((0, 0, 0), torch.full((1, 2, 2), float(step + 1)))
        assert len(watch.past[0, 0, 0]) == min(step + 1, 2)
    # Outputs 1, 2, .. 6: the L1 distance is the gap, the relative distance gap / step.
    expected = torch.tensor(
        [[1 / size for size in range(2, 7)], [2 / size for size in range(2, 7)]]
    )
    torch.testing.assert_close(watch.curves()[0, 0, 0, 1:], expected[0])
    torch.testing.assert_close(watch.curves()[0, 0, 1, 2:], expected[1, 1:])


def test_an_output_of_nothing_is_no_division():
    assert relative_l1(torch.zeros(1, 2), torch.zeros(1, 2)) == 0
    assert relative_l1(torch.ones(1, 2), torch.zeros(1, 2)).isfinite()


def test_the_model_is_left_as_it_was(tiny_dit, ddim):
    stock = sample(tiny_dit, ddim)
    with measure_curves(tiny_dit, ("attn", "ff"), "kv", GAPS):
        assert torch.equal(sample(tiny_dit, ddim), stock)
    with pytest.raises(KeyboardInterrupt), measure_curves(tiny_dit, ("block",), "output", GAPS):
        raise KeyboardInterrupt
    assert not any(module._forward_hooks for module in tiny_dit.modules())


# The worker.


@pytest.fixture(scope="module")
def evaluator():
    return EvaluationWorker(
        EvaluateConfig(
            model="digits", steps=STEPS, guidance_scale=2.0, sites=("attn", "ff"), num_samples=2
        )
    )


def test_batches_of_a_probe_are_one_mean(evaluator):
    probe = CurveTask(num_samples=5, at_once=2, largest_gap=GAPS)
    assert [len(ids) for ids in probe.batches()] == [2, 2, 1]
    parted = evaluator.do(probe).error
    whole = evaluator.do(replace(probe, at_once=5)).error
    assert parted.shape == (2, 8, GAPS, STEPS)
    torch.testing.assert_close(parted, whole, equal_nan=True, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("changes", [{"num_samples": 0}, {"at_once": 0}, {"largest_gap": 0}])
def test_a_probe_of_nothing_is_refused(changes):
    with pytest.raises(ValueError, match="must be at least 1"):
        CurveTask(**changes)
