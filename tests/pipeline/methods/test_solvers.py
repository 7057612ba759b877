"""Solvers alone: the best at each number of steps by calibration, and refusals."""

from __future__ import annotations

import shutil

import diffusers
import pytest

from pipeline.errors import InputError
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.model_runner import ModelRunner
from pipeline.methods.base import FINE, CalibrationBudget, CalibrationCost, Comparison
from pipeline.methods.registry import METHODS
from pipeline.methods.solvers import (
    SAMPLERS,
    EverySolver,
    SolversAlone,
    SolverTask,
    solver_steps,
)
from pipeline.models.model_info import DIGITS, find_model
from tests.pipeline.made_up_answers import MadeUpSession

# NumPy warns of how diffusers' schedulers hand it tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

NO_LIMIT = CalibrationBudget()


def session(steps):
    comparison = Comparison(methods=("solvers",), policies={}, grid=FINE)
    return MadeUpSession(steps=steps, comparison=comparison)


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


class Tuning:
    """A session that runs tasks on one runner, with few samples."""

    def __init__(self, runner):
        self.steps, self.runner, self.spent = 6, runner, 0
        self.comparison = session(6).comparison

    @property
    def cost(self):
        return CalibrationCost(trajectories=self.spent)

    def calibrate(self, tasks):
        self.spent += sum(task.trajectories for task in tasks)
        self.tasks = [
            SolverTask(sampler=one.sampler, steps=one.steps, of_steps=6, noise_ids=(0, 1))
            for one in tasks
        ]
        return {task.name: task.run(self.runner) for task in self.tasks}


def test_the_best_solver_of_each_number_of_steps_is_shipped(runner):
    method, tuning = SolversAlone(), Tuning(runner)
    assert method.tune(tuning, NO_LIMIT).trajectories > 0
    found = {task: task.run(runner).mean_log for task in tuning.tasks}
    points = method.points(tuning)
    assert [point.operating_point for point in points] == ["steps=4", "steps=3", "steps=2"]
    for point in points:
        scores = {task.sampler: at for task, at in found.items() if task.steps == point.steps}
        assert scores[point.sampler] == min(scores.values())


def test_a_solvers_error_is_to_the_solution_and_is_read_back(runner):
    task = SolverTask(sampler=SAMPLERS[0], steps=3, of_steps=6, noise_ids=(0, 1, 2))
    found = task.run(runner)
    stored, arrays = found.encode()
    assert task.decode(stored, arrays) == found
    assert task.trajectories == 2
    targets = runner.solutions("calibrate", [0, 1, 2])
    noise, labels = runner.draw("calibrate", [0, 1, 2])
    latents, _ = runner.sample(noise, labels, 3, None, SAMPLERS[0])
    expected = (
        (latents - targets).flatten(1).norm(dim=1) / targets.flatten(1).norm(dim=1)
    ).tolist()
    assert found.errors == pytest.approx(expected, rel=1e-4)


def test_a_flow_is_refused(tmp_path):
    folder = shutil.copytree(DIGITS, tmp_path / "flow")
    shutil.rmtree(folder / "scheduler")
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(InputError, match=r"^--methods solvers must .* Got FlowMatchEuler"):
        SolversAlone.check(find_model(str(folder)))
