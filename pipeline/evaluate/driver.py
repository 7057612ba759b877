"""Evaluation: every method at every operating point on the same unseen noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.cluster.actor_pool import Fleet
from pipeline.cluster.config import FleetConfig
from pipeline.evaluate.answer_cache import KeptAnswers, Work
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.result_rows import measured_of
from pipeline.evaluate.tasks import Measured, Part, Tallied
from pipeline.evaluate.worker import Evaluator
from pipeline.methods.base import Contest, Point
from pipeline.methods.registry import lay_out_points
from pipeline.progress import Progress


def evaluate(
    config: EvaluateConfig,
    contest: Contest,
    fleet_config: FleetConfig,
    on_measured: Callable[[Measured], None] = lambda measured: None,
    kept: KeptAnswers | None = None,
) -> list[Measured]:
    """Calibrate, then measure every point; in the order of the methods.

    Args:
        on_measured: called with each point when the last of its parts is done.
        kept: where answers of an earlier run are, and those of this run go.

    Raises:
        Refusal: if a worker's device is not of the accelerator type asked for.
    """
    wanted = fleet_config.accelerator_type
    fleet = Fleet(Evaluator, {"config": config, "accelerator_type": wanted}, fleet_config)

    def work(tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        done = fleet.work(tasks) if kept is None else kept.work(tasks, fleet.work)
        return done if tasks else iter(())

    # Of few steps some points of a sweep are the same one.
    points = list({id_of(point): point for point in lay_out_points(config, contest, work)}.values())
    measured: dict[tuple[str, str], Measured] = {}
    for point, parts in _by_point(config, points, work):
        result = measured_of(point, config, parts)
        measured[id_of(point)] = result
        on_measured(result)
    return [measured[id_of(point)] for point in points]


def _by_point(
    config: EvaluateConfig, points: list[Point], work: Work
) -> Iterator[tuple[Point, list[Tallied]]]:
    """Each point with its parts, in the order of their samples, when the last of them is done."""
    tasks: list[Part] = [part for point in points for part in config.parts_of(point)]
    progress = Progress("evaluate", sum(map(len, tasks)), "samples")
    done: dict[tuple[str, str], dict[int, Tallied]] = {id_of(point): {} for point in points}
    for part, tallied in work(tasks):
        mine = done[id_of(part.point)]
        mine[part.start] = tallied
        progress.advance(len(part))
        if len(mine) == len(config.parts_of(part.point)):
            yield part.point, [mine[start] for start in sorted(mine)]
            # Its sums are in its row by now.
            mine.clear()


def id_of(point: Point) -> tuple[str, str]:
    """What names a point."""
    return point.method, point.operating_point


def rows_of(measured: list[Measured]) -> list[dict[str, Any]]:
    """The rows of results.json."""
    return [result.row for result in measured]
