"""Distances to a solution by many steps: of every row, solved once, and kept by the cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dqar.integration import DQARSampler, SamplerConfig
from dqar.signals import relative_error
from pipeline.evaluate.answer_cache import ResultCache
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.result_rows import solution_columns
from pipeline.evaluate.tasks import EvalTask, EvalTaskResult, solve
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.base import OperatingPoint
from pipeline.methods.task import Solutions, SolutionTask
from pipeline.models.noise import draw_noise
from pipeline.models.schedulers import load_scheduler

# NumPy warns of how diffusers' schedulers hand it tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

SAMPLES, MANY = 5, 24
CONFIG = EvaluateConfig(
    model="digits",
    steps=6,
    guidance_scale=2.0,
    num_samples=SAMPLES,
    batch_size=3,
    solution_steps=MANY,
)
KARRAS = "dpm:timestep_spacing=linspace,use_karras_sigmas=true"
POINTS = (
    OperatingPoint(method="baseline", operating_point="steps=6", steps=6),
    OperatingPoint(method="fewer-steps", operating_point="steps=3", steps=3),
    OperatingPoint(method="solvers", operating_point="steps=5", steps=5, sampler=KARRAS),
)


@pytest.fixture(scope="module")
def worker():
    return EvaluationWorker(CONFIG)


@pytest.fixture(scope="module")
def rows(worker):
    return [worker.measure(point).row for point in POINTS]


def by_hand(digits, sampler, steps):
    info = digits.info
    noise, labels = draw_noise("evaluate", 0, range(SAMPLES), info.latent_shape, info.num_classes)
    config = SamplerConfig(num_inference_steps=steps, guidance_scale=2.0)
    scheduler = load_scheduler(info, sampler)
    return DQARSampler(digits.transformer, scheduler, config).sample(SAMPLES, labels, latents=noise)


@pytest.mark.parametrize(("row", "sampler", "steps"), [(0, "ddim", 6), (1, "ddim", 3)])
def test_a_row_has_its_distance_to_ddims_solution(rows, digits, row, sampler, steps):
    latents, solution = by_hand(digits, sampler, steps), by_hand(digits, "ddim", MANY)
    expected = relative_error(latents, solution).tolist()
    found = rows[row]
    assert found["solution_rel_l2_samples"] == pytest.approx(expected, rel=1e-3)
    assert found["solution_rel_l2"] == pytest.approx(np.mean(expected), rel=1e-3)
    assert found["solution_rel_l2_worst"] == pytest.approx(max(expected), rel=1e-3)
    assert found["solution_rel_l2_p90"] == pytest.approx(np.quantile(expected, 0.9), rel=1e-3)
    low, high = found["solution_rel_l2_ci95"]
    half = 1.96 * np.std(expected, ddof=1) / np.sqrt(SAMPLES)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-3)
    assert found["solution_steps"] == MANY


def test_another_solver_is_compared_with_the_same_solution(rows, digits):
    latents, solution = by_hand(digits, KARRAS, 5), by_hand(digits, "ddim", MANY)
    expected = relative_error(latents, solution).tolist()
    assert rows[2]["solution_rel_l2_samples"] == pytest.approx(expected, rel=1e-3)
    assert rows[2]["sampler"] == KARRAS


def test_the_reference_is_far_from_the_solution_but_not_from_itself(rows):
    assert rows[0]["latent_rel_l2"] == 0.0
    assert rows[0]["solution_rel_l2"] > 0.01


def test_without_solutions_the_columns_are_empty():
    assert set(solution_columns(None, []).values()) == {None}
    tasks = replace(CONFIG, solution_steps=None).solution_tasks()
    assert solve(tasks, lambda some: iter(())) is None


def test_each_sample_is_solved_once(worker, monkeypatch):
    calls, sample = [], worker.runner.sample
    monkeypatch.setattr(worker.runner, "_solutions", {})

    def counted(noise, labels, steps, *more):
        calls.append((len(noise), steps))
        return sample(noise, labels, steps, *more)

    monkeypatch.setattr(worker.runner, "sample", counted)
    for point in POINTS[:2]:
        worker.measure(point)
    assert [call for call in calls if call[1] == MANY] == [(3, MANY), (2, MANY)]


def test_solutions_are_part_of_a_tasks_key_and_survive_the_cache(tmp_path, worker):
    kept = ResultCache(tmp_path, CONFIG)
    task = SolutionTask(purpose="evaluate", noise_ids=(0, 1))
    solved = worker.do(task)
    kept.keep(task, solved)
    found = kept.take(task)
    assert isinstance(found, Solutions)
    assert torch.equal(found.latents, solved.latents)
    part = EvalTask(point=POINTS[1], start=0, stop=2, solutions=solved.latents)
    measured = worker.do(part)
    kept.keep(part, measured)
    again = kept.take(part)
    assert isinstance(again, EvalTaskResult)
    assert again.metrics.solution_errors == measured.metrics.solution_errors
    assert kept.take(replace(part, solutions=solved.latents + 1)) is None
    assert kept.take(replace(part, solutions=None)) is None


def test_a_solution_coarser_than_the_reference_samples_is_refused():
    assert replace(CONFIG, solution_steps=CONFIG.steps).solution_steps == CONFIG.steps
    with pytest.raises(
        ValueError, match=r"^solution_steps must be at least the \d+ steps .* Got 2\."
    ):
        replace(CONFIG, solution_steps=2)
