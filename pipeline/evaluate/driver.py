"""Driver of an evaluation: measures every operating point on the same evaluation noise samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.cluster.actor_pool import ActorPool
from pipeline.cluster.config import ClusterConfig
from pipeline.evaluate.answer_cache import ResultCache, Work
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.result_rows import measured_of
from pipeline.evaluate.session import CalibrationSession, SharedCalibration
from pipeline.evaluate.tasks import EvalTask, EvalTaskResult, PointResult, solve
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.base import CalibrationCost, Comparison, OperatingPoint
from pipeline.methods.registry import build_methods
from pipeline.progress import Progress

PointId = tuple[str, str]
"""Method and operating point, which together identify a row of results.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedPoint:
    """An operating point, with the calibration that its method has spent."""

    point: OperatingPoint
    """The operating point."""
    cost: CalibrationCost
    """Calibration of the method, the same for all of its operating points."""


def evaluate(
    config: EvaluateConfig,
    comparison: Comparison,
    cluster_config: ClusterConfig,
    on_measured: Callable[[PointResult], None] = lambda measured: None,
    kept: ResultCache | None = None,
) -> list[PointResult]:
    """Calibrate every method, then measure every operating point; return results by method order.

    Args:
        on_measured: called with the result of an operating point when its last task is done.
        kept: cache on disk; stored results are used, new results are added.

    Raises:
        InputError: if a worker's device is not of the requested accelerator type.
    """
    wanted = cluster_config.accelerator_type
    arguments = {"config": config, "accelerator_type": wanted}
    # Methods calibrate in many rounds: workers keep their model and reference samples between.
    pool = ActorPool(EvaluationWorker, arguments, cluster_config, keeps_idle=True)

    def work(tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        done = pool.map_strict(tasks) if kept is None else kept.work(tasks, pool.map_strict)
        return done if tasks else iter(())

    with closing(pool):
        return _evaluated(config, comparison, work, on_measured)


def _evaluated(
    config: EvaluateConfig,
    comparison: Comparison,
    work: Work,
    on_measured: Callable[[PointResult], None],
) -> list[PointResult]:
    # With few sampling steps several settings of a method are the same operating point.
    tuned = {id_of(one.point): one for one in tune_methods(config.steps, comparison, work)}
    measured: dict[PointId, PointResult] = {}
    solutions = solve(config.solution_tasks(), work)
    for point, parts in _by_point(config, [one.point for one in tuned.values()], work, solutions):
        result = measured_of(point, config, parts, tuned[id_of(point)].cost)
        measured[id_of(point)] = result
        on_measured(result)
    return [measured[name] for name in tuned]


def tune_methods(steps: int, comparison: Comparison, work: Work) -> Iterator[TunedPoint]:
    """Calibrate every method and yield its operating points.

    Args:
        steps: sampling steps of the evaluation.
        work: runs tasks on the evaluation's workers.

    Raises:
        InputError: if a method exceeds its calibration budget.
    """
    shared = SharedCalibration(work)
    for method in build_methods(comparison):
        session = CalibrationSession(steps, comparison, shared, method.name)
        cost = method.tune(session, comparison.calibration_budget)
        session.close()
        for point in method.points(session):
            yield TunedPoint(point=point, cost=cost)


def _by_point(
    config: EvaluateConfig, points: list[OperatingPoint], work: Work, solutions: Tensor | None
) -> Iterator[tuple[OperatingPoint, list[EvalTaskResult]]]:
    """Yield each operating point with its task results, sorted by sample, once all are done."""
    tasks: list[EvalTask] = [part for point in points for part in config.parts_of(point, solutions)]
    progress = Progress("evaluate", sum(map(len, tasks)), "samples")
    done: dict[PointId, dict[int, EvalTaskResult]] = {id_of(point): {} for point in points}
    for part, tallied in work(tasks):
        mine = done[id_of(part.point)]
        mine[part.start] = tallied
        progress.advance(len(part))
        if len(mine) == len(config.parts_of(part.point)):
            yield part.point, [mine[start] for start in sorted(mine)]
            # Frees the memory of images and sums, which the caller has turned into a row.
            mine.clear()


def id_of(point: OperatingPoint) -> PointId:
    """Return the method and operating point that identify a point."""
    return point.method, point.operating_point
