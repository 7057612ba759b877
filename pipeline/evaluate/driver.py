"""Evaluation: every method at every operating point on the same unseen noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline import smooth_points
from pipeline.cluster.actor_pool import Fleet
from pipeline.cluster.config import FleetConfig
from pipeline.contest import Contest
from pipeline.evaluate.answer_cache import KeptAnswers, Work
from pipeline.evaluate.config import EvaluateConfig, Measured, Part, Tallied
from pipeline.evaluate.result_rows import measured_of
from pipeline.evaluate.worker import Evaluator
from pipeline.methods import base as methods
from pipeline.methods.base import Point
from pipeline.methods.calibration import Probe, Probed
from pipeline.methods.learned_gate import first_probe, greedy_points
from pipeline.methods.learned_schedule import planned_points
from pipeline.methods.smoothcache import CurveProbe
from pipeline.methods.threshold import observing_probe, threshold_points, tuned_sweep
from pipeline.progress import Progress
from pipeline.router_points import router_points, router_probes


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


def lay_out_points(config: EvaluateConfig, contest: Contest, work: Work) -> list[Point]:
    """All operating points, those of calibrated sweeps chosen on calibration noise."""
    steps, grid, wanted = config.steps, contest.grid, contest.methods

    def ask(probes: list[Probe]) -> dict[str, Probed]:
        return _answers(work, probes)

    probed = ask(_first_probes(contest))
    points = [Point(method="baseline", operating_point="twin", steps=steps)]
    if "fewer-steps" in wanted:
        points += methods.fewer_steps_points(grid, steps)
    if "fewer-steps-dpmsolver" in wanted:
        points += methods.fewer_solver_steps_points(grid, steps)
    if "interval" in wanted:
        points += methods.interval_points(grid, steps)
    for order in (1, 2):
        if f"interval-forecast{order}" in wanted:
            points += methods.interval_points(grid, steps, order)
    if "linear" in wanted:
        points += methods.linear_points(grid, steps)
    if "threshold" in wanted:
        points += threshold_points(grid, steps, probed["observe"].entropies)
    if "threshold-tuned" in wanted:
        points += tuned_sweep(grid, steps, probed["observe"], ask)
    points += _smooth_points(contest, work)
    if "router" in wanted:
        points += _router_points(work)
    for name, policy in contest.policies.items():
        if policy.spec.plans:
            points += planned_points(name, policy, contest, ask)
        else:
            points += greedy_points(name, policy, contest, steps, probed[name], ask)
    return points


def _first_probes(contest: Contest) -> list[Probe]:
    probes = []
    if {"threshold", "threshold-tuned"} & set(contest.methods):
        probes.append(observing_probe())
    greedy = {name: one for name, one in contest.policies.items() if not one.spec.plans}
    return probes + [first_probe(name, policy) for name, policy in greedy.items()]


def _smooth_points(contest: Contest, work: Work) -> list[Point]:
    names = [name for name in smooth_points.METHODS if name in contest.methods]
    if not names:
        return []
    ((_, curves),) = work([CurveProbe()])
    return [
        point for name in names for point in smooth_points.smooth_points(name, contest.grid, curves)
    ]


def _router_points(work: Work) -> list[Point]:
    return router_points(sorted(work(router_probes()), key=lambda done: done[0].period))


def _answers(work: Work, probes: list[Probe]) -> dict[str, Probed]:
    return {probe.name: answer for probe, answer in work(probes)}


def rows_of(measured: list[Measured]) -> list[dict[str, Any]]:
    """The rows of results.json."""
    return [result.row for result in measured]
