"""Calibration of methods on an evaluation's workers, counted and limited for each method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.errors import InputError
from pipeline.evaluate.answer_cache import Work
from pipeline.methods.base import CalibrationCost, Comparison
from pipeline.methods.task import R_co, Task
from pipeline.progress import Progress
from pipeline.storage.fingerprint import fingerprint


class SharedCalibration:
    """Runs calibration tasks of all methods; a task that several methods share runs once.

    Args:
        work: runs tasks on the evaluation's workers.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._results: dict[str, Any] = {}

    def run(self, tasks: dict[str, Task[R_co]], method: str) -> dict[str, R_co]:
        """Run the tasks that no method has run yet and return all results by task name.

        Args:
            tasks: tasks by fingerprint.
            method: name of the method, for the report of progress.
        """
        missing = {key: task for key, task in tasks.items() if key not in self._results}
        key_of = {task.name: key for key, task in missing.items()}
        total = sum(task.trajectories for task in missing.values())
        progress = Progress(f"calibrate {method}", total, "trajectories")
        for task, result in self._work(list(missing.values())):
            self._results[key_of[task.name]] = result
            progress.advance(task.trajectories)
        return {task.name: self._results[key] for key, task in tasks.items()}


class CalibrationSession:
    """Calibration of one method; implements :class:`pipeline.methods.base.Session`.

    A task that another method has run already counts in full, so that the cost of a method does not
    depend on the other methods of the evaluation. A task that the method itself repeats counts
    once.
    """

    def __init__(
        self, steps: int, comparison: Comparison, shared: SharedCalibration, method: str
    ) -> None:
        self.steps, self.comparison, self.method = steps, comparison, method
        self._shared = shared
        self._asked: dict[str, int] = {}
        self._referenced: frozenset[int] = frozenset()
        self._is_closed = False

    @property
    def cost(self) -> CalibrationCost:
        """Calibration that this method has spent so far."""
        return self._cost_of(self._asked, self._referenced)

    def _cost_of(self, asked: dict[str, int], referenced: frozenset[int]) -> CalibrationCost:
        trajectories = sum(asked.values())
        evaluations = self.steps * (trajectories + len(referenced))
        return CalibrationCost(trajectories=trajectories, evaluations=evaluations)

    def calibrate(self, tasks: Sequence[Task[R_co]]) -> dict[str, R_co]:
        """Run tasks on the evaluation's workers and return their results by task name.

        Raises:
            InputError: if the tasks exceed the method's budget, if two tasks share a name, or after
                :meth:`close`; nothing is sampled then.
        """
        keyed = {fingerprint(task): task for task in tasks}
        _refuse_shared_names(keyed.values())
        asked = self._asked | {key: task.trajectories for key, task in keyed.items()}
        referenced = self._referenced.union(*(task.references for task in keyed.values()))
        self._refuse(self._cost_of(asked, referenced))
        self._asked, self._referenced = asked, referenced
        return self._shared.run(keyed, self.method)

    def close(self) -> None:
        """End the tuning: further calls of :meth:`calibrate` are refused."""
        self._is_closed = True

    def _refuse(self, asked: CalibrationCost) -> None:
        budget = self.comparison.calibration_budget.evaluations
        if budget is not None and asked.evaluations > budget:
            raise InputError(
                f"--tuning-evaluations must cover the calibration of {self.method}. Got {budget} "
                f"and tasks of {asked.evaluations} in total. Raise --tuning-evaluations, or leave "
                "the method out."
            )
        if self._is_closed:
            raise InputError(
                f"A method must calibrate within tune(). Got {asked.trajectories} trajectories "
                "after tune() had returned. Calibrate in tune(), so that the cost is counted."
            )


def _refuse_shared_names(tasks: Iterable[Task[Any]]) -> None:
    """Refuse different tasks with the same name, since results are returned by name."""
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        shared = sorted({name for name in names if names.count(name) > 1})
        raise InputError(
            f"Different calibration tasks must have different names. Got {shared} for several "
            "tasks. Put into each name what distinguishes the task."
        )
