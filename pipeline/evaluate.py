"""Evaluation: every method at every operating point on the same unseen noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dqar.gates import Closed
from dqar.policy import ReusePolicy
from pipeline import methods
from pipeline.evaluator import Evaluator
from pipeline.fleet import Fleet, FleetConfig
from pipeline.methods import Grid, Point
from pipeline.planned_points import planned_points
from pipeline.progress import Progress
from pipeline.tasks import EvaluateConfig, Measured, Probe, Probed

TUNING_NOISES = 4
TUNING_BATCH = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """Which methods meet, with which policies, on which grid."""

    methods: tuple[str, ...]
    policies: dict[str, ReusePolicy]
    """Method name (``learned`` or ``learned-NAME``) to policy."""
    grid: Grid


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
    probed = _first_probes(contest, fleet)
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
        points += methods.threshold_points(grid, steps, probed["observe"].entropies)
    if "threshold-tuned" in wanted:
        points += _tuned(grid, steps, probed["observe"], fleet)
    for name, policy in contest.policies.items():
        if policy.spec.plans:
            points += _of_planned(name, policy, contest, fleet)
        else:
            points += _of_policy(name, policy, contest, steps, probed[name], fleet)
    return points


def _first_probes(contest: Contest, fleet: Fleet) -> dict[str, Probed]:
    probes = []
    if {"threshold", "threshold-tuned"} & set(contest.methods):
        probes.append(Probe(name="observe", gate=Closed(), num_samples=methods.PROBES // 2))
    greedy = {name: one for name, one in contest.policies.items() if not one.spec.plans}
    for name, policy in greedy.items():
        gate = methods.Learned(policy, log_threshold=methods.probe_thresholds(policy))
        probes.append(Probe(name=name, gate=gate, num_samples=methods.PROBES))
    return _answers(fleet, probes)


def _answers(fleet: Fleet, probes: list[Probe]) -> dict[str, Probed]:
    return {probe.name: answer for probe, answer in fleet.work(probes)} if probes else {}


def _of_planned(name: str, policy: ReusePolicy, contest: Contest, fleet: Fleet) -> list[Point]:
    if "learned" not in contest.methods:
        return []
    return planned_points(name, policy, contest.grid, lambda probes: _answers(fleet, probes))


def _of_policy(
    name: str, policy: ReusePolicy, contest: Contest, steps: int, probed: Probed, fleet: Fleet
) -> list[Point]:
    thresholds = methods.thresholds_for(
        contest.grid.reuse_ratios, methods.probe_thresholds(policy), probed.reuse_ratio
    )
    points = []
    if "static" in contest.methods:
        probes = [
            Probe(
                name=f"{threshold:.6f}",
                gate=methods.Learned(policy, log_threshold=threshold),
                num_samples=methods.PROBES // 2,
            )
            for threshold in thresholds
        ]
        for label, answer in sorted(_answers(fleet, probes).items()):
            order = policy.spec.forecast_order
            points.append(methods.static_point(name, steps, answer.share, float(label), order))
    if "learned" in contest.methods:
        points += methods.learned_points(name, policy, steps, thresholds)
    return points


def _tuned(grid: Grid, steps: int, observed: Probed, fleet: Fleet) -> list[Point]:
    settings = list(methods.threshold_settings(observed.snrs, observed.entropies))
    per_batch = TUNING_BATCH // TUNING_NOISES
    probes = []
    for start in range(0, len(settings), per_batch):
        chunk = settings[start : start + per_batch]
        doubled = [setting for setting in chunk for _ in range(TUNING_NOISES)]
        probes.append(
            Probe(
                name=f"{start:06d}",
                gate=methods.tuned_threshold(doubled),
                num_samples=len(doubled),
                noise_ids=tuple(range(TUNING_NOISES)) * len(chunk),
            )
        )
    answers = [answer for _, answer in sorted(_answers(fleet, probes).items())]
    achieved = torch.cat([answer.reuse_ratio for answer in answers]).view(-1, TUNING_NOISES)
    error = torch.cat([answer.error for answer in answers]).view(-1, TUNING_NOISES)
    return methods.tuned_points(
        grid.reuse_ratios, steps, settings, achieved.mean(dim=1), error.mean(dim=1)
    )


def rows_of(measured: list[Measured]) -> list[dict[str, Any]]:
    """The rows of results.json."""
    return [result.row for result in measured]
