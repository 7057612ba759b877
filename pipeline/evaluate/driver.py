"""Evaluation: every method at every operating point on the same unseen noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.cluster.actor_pool import ActorPool
from pipeline.cluster.config import ClusterConfig
from pipeline.evaluate.answer_cache import ResultCache, Work
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.result_rows import measured_of
from pipeline.evaluate.tasks import EvalTask, EvalTaskResult, PointResult
from pipeline.evaluate.worker import Evaluator
from pipeline.methods.base import Comparison, OperatingPoint
from pipeline.methods.registry import lay_out_points
from pipeline.progress import Progress


def evaluate(
    config: EvaluateConfig,
    comparison: Comparison,
    cluster_config: ClusterConfig,
    on_measured: Callable[[PointResult], None] = lambda measured: None,
    kept: ResultCache | None = None,
) -> list[PointResult]:
    """Calibrate, then measure every point; in the order of the methods.

    Args:
        on_measured: called with each point when the last of its parts is done.
        kept: where answers of an earlier run are, and those of this run go.

    Raises:
        Refusal: if a worker's device is not of the accelerator type asked for.
    """
    wanted = cluster_config.accelerator_type
    pool = ActorPool(Evaluator, {"config": config, "accelerator_type": wanted}, cluster_config)

    def work(tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        done = pool.map_strict(tasks) if kept is None else kept.work(tasks, pool.map_strict)
        return done if tasks else iter(())

    # Of few steps some points of a sweep are the same one.
    points = list(
        {id_of(point): point for point in lay_out_points(config, comparison, work)}.values()
    )
    measured: dict[tuple[str, str], PointResult] = {}
    for point, parts in _by_point(config, points, work):
        result = measured_of(point, config, parts)
        measured[id_of(point)] = result
        on_measured(result)
    return [measured[id_of(point)] for point in points]


def _by_point(
    config: EvaluateConfig, points: list[OperatingPoint], work: Work
) -> Iterator[tuple[OperatingPoint, list[EvalTaskResult]]]:
    """Each point with its parts, in the order of their samples, when the last of them is done."""
    tasks: list[EvalTask] = [part for point in points for part in config.parts_of(point)]
    progress = Progress("evaluate", sum(map(len, tasks)), "samples")
    done: dict[tuple[str, str], dict[int, EvalTaskResult]] = {id_of(point): {} for point in points}
    for part, tallied in work(tasks):
        mine = done[id_of(part.point)]
        mine[part.start] = tallied
        progress.advance(len(part))
        if len(mine) == len(config.parts_of(part.point)):
            yield part.point, [mine[start] for start in sorted(mine)]
            # Its sums are in its row by now.
            mine.clear()


def id_of(point: OperatingPoint) -> tuple[str, str]:
    """What names a point."""
    return point.method, point.operating_point


def rows_of(measured: list[PointResult]) -> list[dict[str, Any]]:
    """The rows of results.json."""
    return [result.row for result in measured]
