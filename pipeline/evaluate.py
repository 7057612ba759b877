"""Evaluation: every method at every operating point on the same unseen noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline import methods
from pipeline.contest import Contest
from pipeline.evaluator import Evaluator
from pipeline.fleet import Fleet, FleetConfig
from pipeline.greedy_points import first_probe, greedy_points
from pipeline.methods import Point
from pipeline.planned_points import planned_points
from pipeline.progress import Progress
from pipeline.tasks import EvaluateConfig, Measured, Probe, Probed
from pipeline.threshold_points import observing_probe, threshold_points, tuned_sweep


def evaluate(
    config: EvaluateConfig,
    contest: Contest,
    fleet_config: FleetConfig,
    on_measured: Callable[[Measured], None] = lambda measured: None,
) -> list[Measured]:
    """Calibrate, then measure every point; in the order of the methods."""
    fleet = Fleet(Evaluator, {"config": config}, fleet_config)
    points = lay_out_points(config, contest, fleet)
    order = {id_of(point): index for index, point in enumerate(points)}
    progress = Progress("evaluate", len(points), "points")
    measured: dict[int, Measured] = {}
    for point, result in fleet.work(points):
        measured[order[id_of(point)]] = result
        on_measured(result)
        progress.advance(1)
    return [measured[index] for index in sorted(measured)]


def id_of(point: Point) -> tuple[str, str]:
    """What names a point."""
    return point.method, point.operating_point


def lay_out_points(config: EvaluateConfig, contest: Contest, fleet: Fleet) -> list[Point]:
    """All operating points, those of calibrated sweeps chosen on calibration noise."""
    steps, grid, wanted = config.steps, contest.grid, contest.methods

    def ask(probes: list[Probe]) -> dict[str, Probed]:
        return _answers(fleet, probes)

    probed = ask(_first_probes(contest))
    points = [Point(method="baseline", operating_point="twin", steps=steps)]
    if "fewer-steps" in wanted:
        points += methods.fewer_steps_points(grid, steps)
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


def _answers(fleet: Fleet, probes: list[Probe]) -> dict[str, Probed]:
    return {probe.name: answer for probe, answer in fleet.work(probes)} if probes else {}


def rows_of(measured: list[Measured]) -> list[dict[str, Any]]:
    """The rows of results.json."""
    return [result.row for result in measured]
