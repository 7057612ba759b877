"""A new method needs one class and one line of the registry: from calibration to MLflow."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from dqar.gates.base import Gate, refuse_where
from dqar.records import DecisionReason
from pipeline.cluster.config import ClusterConfig
from pipeline.errors import InputError
from pipeline.evaluate import driver
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.run import evaluate_methods
from pipeline.methods import registry
from pipeline.methods.base import COARSE, CalibrationBudget, Comparison, Method, OperatingPoint
from pipeline.methods.task import ModelSampler
from pipeline.tracking import Tracker

STEPS = 6
CONFIG = EvaluateConfig(
    model="digits", steps=STEPS, guidance_scale=2.0, num_samples=2, batch_size=2
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Mean absolute values of final latents."""

    values: torch.Tensor

    def encode(self):
        return {}, {"values": self.values.numpy()}


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeTask:
    """Task that measures samples of the stock model."""

    name: str = "sizes"
    trajectories: int = 3
    references: frozenset[int] = frozenset()

    def run(self, sampler: ModelSampler) -> Sizes:
        latents = sampler.calibration_references(range(self.trajectories))
        return Sizes(values=latents.abs().flatten(1).mean(dim=1))

    def decode(self, stored, arrays):
        return Sizes(values=torch.from_numpy(arrays["values"]))


class LateReuse(Gate):
    """Gate that reuses from step ``first`` on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def decide(self, inputs):
        is_early = torch.full(inputs.shape, inputs.step.index < self.first)
        is_refused = is_early | ~inputs.cached
        return refuse_where(is_refused, DecisionReason.WARMUP, inputs)


class Toy(Method):
    """Method that reuses from step 2 or from step 4 on."""

    name = "toy"
    note = "`toy` is made for a test."

    def tune(self, session, budget):
        self.sizes = session.calibrate([SizeTask()])["sizes"].values
        return session.cost

    def points(self, session):
        assert 0 < float(self.sizes.mean()) < 2
        return [
            OperatingPoint(
                method=self.name,
                operating_point=f"from={first}",
                steps=session.steps,
                gate=LateReuse(first),
            )
            for first in (2, 4)
        ]


class InThisProcess:
    """Replacement of the actor pool without Ray: one worker runs all tasks."""

    done: list = []  # noqa: RUF012

    def __init__(self, worker, arguments, config, *, keeps_idle):
        assert keeps_idle
        self.worker = worker(**arguments)

    def close(self):
        """Do nothing: the worker ends with the process."""

    def map_strict(self, tasks):
        for task in tasks:
            self.done.append(task)
            yield task, self.worker.do(task)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Register the toy method, and replace the actor pool."""
    monkeypatch.setattr(registry, "METHODS", (*registry.METHODS, Toy))
    monkeypatch.setattr(driver, "ActorPool", InThisProcess)
    monkeypatch.setattr(InThisProcess, "done", [])


def compared(methods, budget=None):
    return Comparison(
        methods=methods,
        policies={},
        grid=COARSE,
        calibration_budget=CalibrationBudget(evaluations=budget),
    )


def run(folder, comparison):
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", "toys")
    return evaluate_methods(CONFIG, comparison, ClusterConfig(), str(folder / "results"), tracker)


def test_a_toy_goes_from_its_class_to_the_results_and_to_mlflow(tmp_path):
    run(tmp_path, compared(("interval", "toy"), budget=3 * STEPS))
    rows = json.loads((tmp_path / "results" / "results.json").read_text())
    spent = {row["method"]: row["calibration_trajectories"] for row in rows}
    assert spent == {"baseline": 0, "interval": 0, "toy": 3}
    evaluations = {row["method"]: row["tuning_evaluations"] for row in rows}
    assert evaluations == {"baseline": 0, "interval": 0, "toy": 3 * STEPS}
    toys = [row for row in rows if row["method"] == "toy"]
    assert [row["operating_point"] for row in toys] == ["from=2", "from=4"]
    assert [row["reuse_ratio"] for row in toys] == pytest.approx([4 / STEPS, 2 / STEPS])
    assert toys[0]["latent_rel_l2"] > toys[1]["latent_rel_l2"] > 0
    report = (tmp_path / "results" / "report.md").read_text()
    assert "| toy " in report
    assert Toy.note in report
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("toys")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    session = next(one for one in runs if one.info.run_name == "evaluate digits")
    assert session.data.metrics["calibration_trajectories/toy"] == 3
    assert session.data.metrics["calibration_trajectories/interval"] == 0
    points = {
        one.data.params["operating_point"] for one in runs if "operating_point" in one.data.params
    }
    assert {"from=2", "from=4"} <= points


def test_a_toy_that_asks_for_more_than_its_budget_samples_nothing(tmp_path):
    with pytest.raises(InputError, match=r"of toy. Got 17 and tasks of 18") as refusal:
        run(tmp_path, compared(("interval", "toy"), budget=3 * STEPS - 1))
    assert "\n" not in str(refusal.value)
    assert InThisProcess.done == []
    assert not (tmp_path / "results" / "results.json").exists()


def test_an_evaluation_that_was_cut_off_does_not_calibrate_again(tmp_path, monkeypatch):
    def cut_off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(driver, "measured_of", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, compared(("toy",)))
    assert isinstance(InThisProcess.done[0], SizeTask)
    first = len(InThisProcess.done)
    run(tmp_path, compared(("toy",)))
    assert not any(isinstance(task, SizeTask) for task in InThisProcess.done[first:])


def test_a_toys_results_come_back_from_arrays():
    values = torch.rand(3)
    stored, arrays = Sizes(values=values).encode()
    assert isinstance(arrays["values"], np.ndarray)
    assert torch.equal(SizeTask().decode(stored, arrays).values, values)
