"""Solvers alone: the best at each number of steps by calibration, and refusals."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import diffusers
import pytest

from pipeline.errors import InputError
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.model_runner import ModelRunner
from pipeline.evaluate.session import CalibrationSession, SharedCalibration
from pipeline.methods.base import FINE, CalibrationBudget, Comparison
from pipeline.methods.registry import METHODS
from pipeline.methods.solvers import (
    SAMPLERS,
    EverySolver,
    SolverError,
    SolversAlone,
    SolverTask,
    solver_steps,
)
from pipeline.methods.task import SolutionTask
from pipeline.models.model_info import DIGITS, find_model

# NumPy warns of how diffusers' schedulers hand it tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def session(steps):
    comparison = Comparison(methods=("solvers",), policies={}, grid=FINE)
    return CalibrationSession(steps, comparison, SharedCalibration(lambda tasks: iter(())), "")


def test_solvers_are_of_four_kinds_over_three_spacings():
    assert len(set(SAMPLERS)) == 12
    assert sorted({sampler.partition(":")[0] for sampler in SAMPLERS}) == ["deis", "dpm", "unipc"]
    assert "dpm:solver_order=3,use_karras_sigmas=true" in SAMPLERS
    assert {SolversAlone, EverySolver} <= set(METHODS)


def test_steps_are_those_of_plans():
    assert solver_steps(50) == [33, 25, 20, 15, 12, 10]
    assert solver_steps(5) == [3, 2]


def test_every_solver_has_a_row_for_each_number_of_steps():
    points = EverySolver().points(session(50))
    assert len({point.operating_point for point in points}) == len(points) == 12 * 6
    assert {point.sampler for point in points} == set(SAMPLERS)


@pytest.fixture(scope="module")
def runner():
    config = EvaluateConfig(
        model="digits", steps=6, guidance_scale=2.0, num_samples=4, solution_steps=30
    )
    return ModelRunner(config)


@pytest.fixture
def tuning(runner):
    def work(tasks):
        return iter([(task, task.run(runner)) for task in tasks])

    def begin(evaluations):
        comparison = Comparison(
            methods=("solvers",),
            policies={},
            grid=FINE,
            calibration_budget=CalibrationBudget(evaluations=evaluations),
            solution_steps=30,
        )
        return CalibrationSession(6, comparison, SharedCalibration(work), "solvers")

    return begin


def test_the_best_solver_of_each_number_of_steps_is_shipped(runner, tuning):
    method, begun = SolversAlone(), tuning(500)
    cost = method.tune(begun, begun.comparison.calibration_budget)
    assert 250 < cost.evaluations <= 500
    points = method.points(begun)
    assert [point.operating_point for point in points] == ["steps=4", "steps=3", "steps=2"]
    solutions = runner.solutions("calibrate", [0, 1])
    for point in points:
        scores = {
            sampler: SolverTask(
                sampler=sampler,
                steps=point.steps,
                of_steps=6,
                noise_ids=(0, 1),
                solutions=solutions,
            )
            .run(runner)
            .mean_log
            for sampler in SAMPLERS
        }
        assert point.sampler is not None
        assert scores[point.sampler] == pytest.approx(min(scores.values()), abs=1e-4)


def test_a_budget_below_one_sample_is_refused(tuning):
    begun = tuning(100)
    with pytest.raises(InputError, match=r"--tuning-evaluations must cover one .* Got 100\."):
        SolversAlone().tune(begun, begun.comparison.calibration_budget)


def test_a_solvers_error_is_to_the_solution_and_is_read_back(runner):
    targets = runner.solutions("calibrate", [0, 1, 2])
    task = SolverTask(
        sampler=SAMPLERS[0], steps=3, of_steps=6, noise_ids=(0, 1, 2), solutions=targets
    )
    assert task.references == frozenset()
    assert replace(task, solutions=None).references == {0, 1, 2}
    found = task.run(runner)
    stored, arrays = found.encode()
    assert task.decode(stored, arrays) == found
    assert task.trajectories == 2
    noise, labels = runner.draw("calibrate", [0, 1, 2])
    latents, _ = runner.sample(noise, labels, 3, None, SAMPLERS[0])
    expected = (
        (latents - targets).flatten(1).norm(dim=1) / targets.flatten(1).norm(dim=1)
    ).tolist()
    assert found.errors == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("is_solved", [True, False])
def test_calibration_keeps_to_the_batches_of_the_evaluation(is_solved, monkeypatch):
    few = EvaluateConfig(
        model="digits", steps=6, guidance_scale=2.0, num_samples=4, solution_steps=8, batch_size=2
    )
    runner, ids = ModelRunner(few), (0, 1, 2)
    sampled, sizes = runner.sample, []

    def sample(noise, *rest):
        sizes.append(len(noise))
        return sampled(noise, *rest)

    monkeypatch.setattr(runner, "sample", sample)
    solved = SolutionTask(purpose="calibrate", noise_ids=ids).run(runner).latents
    task = SolverTask(
        sampler=SAMPLERS[0],
        steps=3,
        of_steps=6,
        noise_ids=ids,
        solutions=solved if is_solved else None,
    )
    assert len(task.run(runner).errors) == len(solved) == 3
    assert set(sizes) == {2, 1}


def test_a_solver_that_diverges_is_not_the_best():
    diverged, worse = (SolverError(errors=errors) for errors in ((math.nan, 0.1), (3.0, 3.0)))
    assert min([diverged, worse], key=lambda one: one.mean_log) is worse


def test_a_flow_is_refused(tmp_path):
    folder = shutil.copytree(DIGITS, tmp_path / "flow")
    shutil.rmtree(folder / "scheduler")
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(InputError, match=r"^--methods solvers must .* Got FlowMatchEuler"):
        SolversAlone.check(find_model(str(folder)))
