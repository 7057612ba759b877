"""The operating points of every method of an evaluation."""

from __future__ import annotations

from pipeline.evaluate.answer_cache import Work
from pipeline.evaluate.config import EvaluateConfig
from pipeline.methods.base import Comparison, OperatingPoint
from pipeline.methods.calibration import CalibrationResult, CalibrationTask
from pipeline.methods.fewer_steps import fewer_solver_steps_points, fewer_steps_points
from pipeline.methods.interval import interval_points, linear_points
from pipeline.methods.learned_gate import first_probe, greedy_points
from pipeline.methods.learned_schedule import planned_points
from pipeline.methods.learning_to_cache import router_points, router_probes
from pipeline.methods.smoothcache import METHODS as SMOOTHCACHES
from pipeline.methods.smoothcache import CurveProbe, smooth_points
from pipeline.methods.threshold import observing_probe, threshold_points, tuned_sweep


def lay_out_points(
    config: EvaluateConfig, comparison: Comparison, work: Work
) -> list[OperatingPoint]:
    """All operating points, those of calibrated sweeps chosen on calibration noise."""
    steps, grid, wanted = config.steps, comparison.grid, comparison.methods

    def ask(probes: list[CalibrationTask]) -> dict[str, CalibrationResult]:
        return _answers(work, probes)

    probed = ask(_first_probes(comparison))
    points = [OperatingPoint(method="baseline", operating_point="twin", steps=steps)]
    if "fewer-steps" in wanted:
        points += fewer_steps_points(grid, steps)
    if "fewer-steps-dpmsolver" in wanted:
        points += fewer_solver_steps_points(grid, steps)
    if "interval" in wanted:
        points += interval_points(grid, steps)
    for order in (1, 2):
        if f"interval-forecast{order}" in wanted:
            points += interval_points(grid, steps, order)
    if "linear" in wanted:
        points += linear_points(grid, steps)
    if "threshold" in wanted:
        points += threshold_points(grid, steps, probed["observe"].entropies)
    if "threshold-tuned" in wanted:
        points += tuned_sweep(grid, steps, probed["observe"], ask)
    points += _smooth_points(comparison, work)
    if "router" in wanted:
        points += _router_points(work)
    for name, policy in comparison.policies.items():
        if policy.spec.plans:
            points += planned_points(name, policy, comparison, ask)
        else:
            points += greedy_points(name, policy, comparison, steps, probed[name], ask)
    return points


def _first_probes(comparison: Comparison) -> list[CalibrationTask]:
    probes = []
    if {"threshold", "threshold-tuned"} & set(comparison.methods):
        probes.append(observing_probe())
    greedy = {name: one for name, one in comparison.policies.items() if not one.spec.plans}
    return probes + [first_probe(name, policy) for name, policy in greedy.items()]


def _smooth_points(comparison: Comparison, work: Work) -> list[OperatingPoint]:
    names = [name for name in SMOOTHCACHES if name in comparison.methods]
    if not names:
        return []
    ((_, curves),) = work([CurveProbe()])
    return [point for name in names for point in smooth_points(name, comparison.grid, curves)]


def _router_points(work: Work) -> list[OperatingPoint]:
    return router_points(sorted(work(router_probes()), key=lambda done: done[0].period))


def _answers(work: Work, probes: list[CalibrationTask]) -> dict[str, CalibrationResult]:
    return {probe.name: answer for probe, answer in work(probes)}
