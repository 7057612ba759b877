"""Calibration of the methods of one evaluation on its workers: counted and bounded by method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.errors import InputError
from pipeline.evaluate.answer_cache import Work
from pipeline.methods.base import CalibrationCost, Comparison
from pipeline.methods.task import R_co, Task
from pipeline.storage.fingerprint import fingerprint


class SharedCalibration:
    """Results of calibration tasks, so that methods with the same task have it run once.

    Args:
        work: runs tasks on the evaluation's workers.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._results: dict[str, Any] = {}

    def run(self, tasks: dict[str, Task[R_co]]) -> dict[str, R_co]:
        """Results of tasks by their names.

        Args:
            tasks: by their fingerprints.
        """
        missing = {key: task for key, task in tasks.items() if key not in self._results}
        key_of = {task.name: key for key, task in missing.items()}
        for task, result in self._work(list(missing.values())):
            self._results[key_of[task.name]] = result
        return {task.name: self._results[key] for key, task in tasks.items()}


class CalibrationSession:
    """One method's calibration; a :class:`pipeline.methods.base.Session`.

    A task that another method had run already counts in full, so that the cost of a method does not
    depend on which others it is compared with. A task that the method itself repeats counts once.
    """

    def __init__(self, steps: int, comparison: Comparison, shared: SharedCalibration) -> None:
        self.steps, self.comparison = steps, comparison
        self._shared = shared
        self._asked: dict[str, int] = {}
        self._is_closed = False

    @property
    def cost(self) -> CalibrationCost:
        """Calibration that the method has spent so far."""
        return CalibrationCost(trajectories=sum(self._asked.values()))

    def calibrate(self, tasks: Sequence[Task[R_co]]) -> dict[str, R_co]:
        """Run tasks on the evaluation's workers; results by the names of the tasks.

        Raises:
            InputError: if the tasks go beyond the method's budget, or its tuning is over; nothing
                is sampled then.
        """
        keyed = {fingerprint(task): task for task in tasks}
        _refuse_shared_names(keyed.values())
        asked = self._asked | {key: task.trajectories for key, task in keyed.items()}
        self._refuse(sum(asked.values()))
        self._asked = asked
        return self._shared.run(keyed)

    def close(self) -> None:
        """End the tuning: the method lays out its points from here on."""
        self._is_closed = True

    def _refuse(self, asked: int) -> None:
        budget = self.comparison.calibration_budget.trajectories
        if budget is not None and asked > budget:
            raise InputError(
                f"A method must calibrate with at most {budget} trajectories. Got tasks of {asked} "
                "in total. Raise the calibration_budget of the Comparison, or leave the method out."
            )
        if self._is_closed:
            raise InputError(
                f"A method must calibrate within tune(). Got tasks of {asked} trajectories after "
                "tune() had returned. Calibrate in tune(), so that the cost is counted."
            )


def _refuse_shared_names(tasks: Iterable[Task[Any]]) -> None:
    """Refuse different tasks of one name: results are found by names."""
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        shared = sorted({name for name in names if names.count(name) > 1})
        raise InputError(
            f"Different calibration tasks must have different names. Got {shared} for several "
            "tasks. Put into each name what distinguishes the task."
        )
