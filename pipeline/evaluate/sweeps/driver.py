"""Sweeps: every point of a grid in every run, in an order that rotates from run to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from dqar.gates.rules import NeverReuse
from pipeline.evaluate.config import FIGURES
from pipeline.evaluate.sweeps.config import SweepConfig, ThresholdConfig
from pipeline.evaluate.sweeps.dummy_dit import DummyBench
from pipeline.evaluate.sweeps.grids import CacheBits, GridPoint, ScheduleGrid
from pipeline.evaluate.sweeps.results import Row, Sweep, Swept
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.calibration import CalibrationTask
from pipeline.models.model_info import find_model
from pipeline.progress import Progress

OBSERVED = 32
"""Samples whose entropy is observed before the ablations, at most one batch."""
T = TypeVar("T")
Measure = Callable[[GridPoint], Row]


def sweep(config: SweepConfig | ThresholdConfig) -> Sweep:
    """Measure every point of the grid in every run."""
    bench = DummyBench(config) if isinstance(config, ThresholdConfig) else ModelBench(config)
    groups, facts = bench.lay_out()
    progress = Progress("sweep", config.runs * sum(map(len, groups)), "points")
    points: list[Swept] = []
    for group in groups:
        runs = [_measure_run(bench, group, run, progress) for run in range(config.runs)]
        points += [
            Swept(setting=point.setting, runs=tuple(rows), facts=point.facts)
            for point, rows in zip(group, zip(*runs, strict=True), strict=True)
        ]
    return Sweep(kind=config.kind, config=asdict(config), facts=facts, points=points)


def _measure_run(
    bench: ModelBench | DummyBench, group: list[GridPoint], run: int, progress: Progress
) -> list[Row]:
    measure, rows = bench.start(run), {}
    for index in rotated(range(len(group)), run):
        rows[index] = measure(group[index])
        progress.advance(1)
    return bench.compare(group, [rows[index] for index in sorted(rows)])


def rotated(items: Sequence[T], run: int) -> list[T]:
    """The order of a run: another item goes first in each, so that none always follows a rest.

    Example: ``rotated("abc", 1) == ["b", "c", "a"]``.
    """
    start = run % len(items)
    return [*items[start:], *items[:start]]


class ModelBench:
    """A trained model under the worker of an evaluation, loaded anew for each run and cache."""

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self.points, self.facts = lay_out(config)

    def lay_out(self) -> tuple[list[list[GridPoint]], dict[str, Any]]:
        """All points as one group."""
        return [self.points], self.facts

    def start(self, run: int) -> Measure:
        """Load a worker for each cache, with the noise samples of the run."""
        config = self.config
        caches: set[CacheBits] = {point.cache_bits for point in self.points}
        workers = {bits: EvaluationWorker(config.evaluate_config(run, bits)) for bits in caches}

        def measure(point: GridPoint) -> Row:
            row = workers[point.cache_bits].measure(point.at(config.steps)).row
            # A run without reuse holds no cache.
            return {key: row[key] for key in FIGURES} | {"cache_mb": row["cache_mb"] or 0.0}

        return measure

    def compare(self, group: list[GridPoint], rows: list[Row]) -> list[Row]:
        """Add the change of FID from the baseline's: that of few samples is far too high, but by
        the same amount on the same noise samples."""
        bare = [row["fid"] for row, one in zip(rows, group, strict=True) if one.gate is None]
        reference = bare[0] if bare else None
        return [
            row | {"fid_change": None if reference is None else row["fid"] - reference}
            for row in rows
        ]


def lay_out(config: SweepConfig) -> tuple[list[GridPoint], dict[str, float]]:
    """The points of a grid, and the figures observed to choose them."""
    grid = config.grid
    if isinstance(grid, ScheduleGrid):
        return grid.points(find_model(config.model).num_layers, config.steps), {}
    if grid.entropy_threshold is not None:
        facts = {"entropy_threshold": grid.entropy_threshold}
    else:
        facts = observe_entropy(config, grid.entropy_quantile)
    return grid.points(facts["entropy_threshold"]), facts


def observe_entropy(config: SweepConfig, quantile: float) -> dict[str, float]:
    """Entropies in nats that gates see on calibration noise, and the quantile taken for tau."""
    worker = EvaluationWorker(config.evaluate_config(0, 32))
    task = CalibrationTask(
        name="observe", gate=NeverReuse(), num_samples=min(OBSERVED, config.batch_size)
    )
    entropies = worker.calibrate(task).entropies
    return {
        "entropy_min": float(entropies.min()),
        "entropy_max": float(entropies.max()),
        # The gate passes what lies below tau: a hair more, so that quantile 1 passes all.
        "entropy_threshold": float(entropies.quantile(quantile)) * (1.0 + 1e-6),
    }
