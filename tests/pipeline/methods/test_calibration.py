"""Calibration tasks split into parts run the same samples and merge into the same result."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.gates.rules import MaskGate
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.calibration import CalibrationResult, CalibrationTask

STEPS = 6
NOISES = (7, 3, 3, 7, 11)
ORDERS = (0, 2, 1, 0, 1)
GAINS = (0.0, 0.5, 0.25, 0.0, 1.0)


def script() -> torch.Tensor:
    reuse = torch.rand(STEPS, 1, len(NOISES), generator=torch.Generator().manual_seed(0)) < 0.6
    reuse[0] = False
    return reuse


def a_probe() -> CalibrationTask:
    return CalibrationTask(
        name="p",
        gate=MaskGate(script()),
        num_samples=len(NOISES),
        noise_ids=NOISES,
        forecast_order=ORDERS,
        feedback=GAINS,
    )


def evaluator_of(batch_size: int) -> EvaluationWorker:
    return EvaluationWorker(
        EvaluateConfig(
            model="digits", steps=STEPS, guidance_scale=2.0, num_samples=2, batch_size=batch_size
        )
    )


@given(at_once=st.integers(1, 8))
def test_parts_hold_every_sample_once(at_once):
    parts = a_probe().parts(at_once)
    assert all(0 < part.num_samples <= at_once for part in parts)
    for name, whole in (("noise_ids", NOISES), ("forecast_order", ORDERS), ("feedback", GAINS)):
        assert tuple(itertools.chain(*(getattr(part, name) for part in parts))) == whole
    scripts = [part.gate.reuse for part in parts if isinstance(part.gate, MaskGate)]
    assert torch.equal(torch.cat(scripts, dim=2), script())


def test_without_ids_noises_are_the_first():
    parts = CalibrationTask(
        name="p", gate=MaskGate(script()), num_samples=5, forecast_order=1
    ).parts(2)
    assert [part.noise_ids for part in parts] == [(0, 1), (2, 3), (4,)]
    assert {part.forecast_order for part in parts} == {1}


@pytest.fixture(scope="module")
def whole():
    return evaluator_of(len(NOISES)).calibrate(a_probe())


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_smaller_batch_gives_the_same_answer(whole, batch_size):
    answer = evaluator_of(batch_size).calibrate(a_probe())
    assert torch.equal(answer.reuse_ratio, whole.reuse_ratio)
    torch.testing.assert_close(answer.share, whole.share)
    torch.testing.assert_close(answer.error, whole.error, atol=1e-6, rtol=2e-2)
    assert answer.snrs == whole.snrs


def test_no_batch_is_larger_and_no_twin_sampled_twice(monkeypatch):
    evaluator, sampled = evaluator_of(2), []
    sample = evaluator.runner.sample

    def watched(noise, labels, steps, controller, *others):
        sampled.append((controller is None, len(noise)))
        return sample(noise, labels, steps, controller, *others)

    monkeypatch.setattr(evaluator.runner, "sample", watched)
    first, again = (evaluator.calibrate(a_probe()) for _ in range(2))
    assert torch.equal(first.error, again.error)
    assert max(size for _, size in sampled) == 2
    assert sum(size for is_twin, size in sampled if is_twin) == len(set(NOISES))
    assert sum(size for is_twin, size in sampled if not is_twin) == 2 * len(NOISES)


def test_shares_are_weighted_by_samples():
    def answer(samples: int, share: float) -> CalibrationResult:
        nothing = torch.zeros(samples)
        shares = torch.full((STEPS, 1), share)
        return CalibrationResult(
            reuse_ratio=nothing, share=shares, error=nothing, entropies=nothing, snrs=[1.0]
        )

    joined = CalibrationResult.joined([answer(3, 1.0), answer(1, 0.0)])
    torch.testing.assert_close(joined.share, torch.full((STEPS, 1), 0.75))
    assert len(joined.error) == 4
