"""Calibration of one method: counted, limited, and run once if several methods share a task."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from dqar.gates.rules import Interval
from pipeline.errors import InputError
from pipeline.evaluate.session import CalibrationSession, SharedCalibration
from pipeline.methods.base import COARSE, CalibrationBudget, Comparison
from pipeline.methods.task import ModelSampler


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """Result that is one number."""

    value: int

    def encode(self):
        return {"value": self.value}, {"values": np.array([self.value])}


@dataclass(frozen=True, kw_only=True, slots=True)
class Double:
    """Task that doubles a number; its cost in trajectories is that number."""

    name: str
    value: int

    @property
    def trajectories(self) -> int:
        return self.value

    @property
    def references(self) -> frozenset[int]:
        return frozenset(range(self.value))

    def run(self, sampler: ModelSampler) -> Number:
        return Number(value=2 * self.value)

    def decode(self, stored, arrays) -> Number:
        return Number(value=stored["value"])


COMPARISON = Comparison(methods=(), policies={}, grid=COARSE)


def sessions(ran, budget=None):
    """Return a factory of sessions that share results; results arrive in reverse order."""

    def work(tasks):
        ran.extend(tasks)
        return iter([(task, Number(value=2 * task.value)) for task in reversed(tasks)])

    comparison = replace(COMPARISON, calibration_budget=CalibrationBudget(evaluations=budget))
    shared = SharedCalibration(work)
    return lambda: CalibrationSession(7, comparison, shared, "interval")


def test_results_are_found_by_the_names_of_their_tasks():
    session = sessions([])()
    found = session.calibrate([Double(name="a", value=1), Double(name="b", value=5)])
    assert {name: one.value for name, one in found.items()} == {"a": 2, "b": 10}
    assert list(found) == ["a", "b"]
    assert (session.cost.trajectories, session.steps) == (6, 7)
    # Seven steps of six trajectories, and of the reference samples of five noise samples.
    assert session.cost.evaluations == 7 * (6 + 5)


def test_different_tasks_of_one_name_are_refused_before_anything_runs():
    ran = []
    session = sessions(ran)()
    with pytest.raises(InputError, match=r"different names\. Got \['x'\]"):
        session.calibrate([Double(name="x", value=1), Double(name="x", value=2)])
    assert ran == []
    session.calibrate([Double(name="x", value=1), Double(name="x", value=1)])


def test_the_same_task_is_run_once_and_counts_for_each_method():
    ran = []
    new = sessions(ran)
    one, other = new(), new()
    for session in (one, other):
        assert session.calibrate([Double(name="a", value=3)])["a"].value == 6
    other.calibrate([Double(name="a", value=4)])
    assert ran == [Double(name="a", value=3), Double(name="a", value=4)]
    assert (one.cost.trajectories, other.cost.trajectories) == (3, 7)


def test_a_task_that_a_method_repeats_counts_once():
    ran = []
    session = sessions(ran, budget=7 * 6)()
    task = Double(name="a", value=3)
    for tasks in ([task, task], [task]):
        assert session.calibrate(tasks)["a"].value == 6
    assert ran == [task]
    assert session.cost.trajectories == 3


def test_what_goes_beyond_the_budget_is_refused_before_anything_runs():
    ran = []
    session = sessions(ran, budget=7 * 8)()
    session.calibrate([Double(name="a", value=3)])
    tasks = [Double(name="b", value=2), Double(name="c", value=1)]
    with pytest.raises(InputError, match=r"of interval\. Got 56 and tasks of 63 in total"):
        session.calibrate(tasks)
    assert ran == [Double(name="a", value=3)]
    assert session.cost.trajectories == 3
    session.calibrate(tasks[:1])
    assert session.cost.trajectories == 5


def test_budgets_are_of_one_method_each():
    new = sessions([], budget=7 * 6)
    for session in (new(), new()):
        session.calibrate([Double(name="a", value=3)])


def test_calibration_after_tuning_is_refused():
    ran = []
    session = sessions(ran)()
    session.close()
    with pytest.raises(InputError, match=r"calibrate within tune\(\)"):
        session.calibrate([Double(name="a", value=3)])
    assert ran == []


def test_a_gates_task_costs_its_samples():
    from pipeline.methods.calibration import CalibrationTask
    from pipeline.methods.learning_to_cache import RouterTask
    from pipeline.methods.smoothcache import CurveTask

    gate = CalibrationTask(name="p", gate=Interval(2), num_samples=6, noise_ids=(0, 1) * 3)
    assert gate.trajectories == 6
    assert CurveTask(num_samples=5).trajectories == 5
    routers = RouterTask(num_samples=2, epochs=3, penalties=(1e-3, 1e-2))
    assert routers.trajectories == 2 + 3 * 2
