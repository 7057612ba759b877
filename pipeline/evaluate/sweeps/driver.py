"""Measure every point of a grid in every run, in an order that rotates from run to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from dqar.gates.rules import NeverReuse
from pipeline.evaluate.config import FIGURES
from pipeline.evaluate.sweeps.config import SweepConfig, ThresholdConfig, settings_of
from pipeline.evaluate.sweeps.dummy_dit import DummyBench
from pipeline.evaluate.sweeps.grids import (
    CacheBits,
    GridPoint,
    ScheduleGrid,
    ablation_points,
)
from pipeline.evaluate.sweeps.results import Row, Sweep, Swept
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.calibration import CalibrationTask
from pipeline.models.model_info import find_model
from pipeline.progress import Progress

OBSERVED = 32
"""Calibration samples whose attention entropy is observed before the ablations, at most one
batch."""
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
    return Sweep(kind=config.kind, config=settings_of(config), facts=facts, points=points)


def _measure_run(
    bench: ModelBench | DummyBench, group: list[GridPoint], run: int, progress: Progress
) -> list[Row]:
    measure, rows = bench.start(run), {}
    for index in rotated(range(len(group)), run):
        rows[index] = measure(group[index])
        progress.advance(1)
    return bench.compare(group, [rows[index] for index in sorted(rows)])


def rotated(items: Sequence[T], run: int) -> list[T]:
    """Return the items in the order of a run, which starts one item later than the run before.

    A device that warms up or throttles in the course of a run then slows another item in each run.

    Example: ``rotated("abc", 1) == ["b", "c", "a"]``.
    """
    start = run % len(items)
    return [*items[start:], *items[:start]]


class ModelBench:
    """Sweep on a trained model, which is loaded for every run and every number of cache bits."""

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self.points, self.facts = lay_out(config)

    def lay_out(self) -> tuple[list[list[GridPoint]], dict[str, Any]]:
        """Return all points as one group, and the figures observed to choose the points."""
        return [self.points], self.facts

    def start(self, run: int) -> Measure:
        """Return the function that measures a point on the noise samples of a run.

        The model is loaded once for each number of cache bits.
        """
        config = self.config
        caches: set[CacheBits] = {point.cache_bits for point in self.points}
        workers = {bits: EvaluationWorker(config.evaluate_config(run, bits)) for bits in caches}

        def measure(point: GridPoint) -> Row:
            row = workers[point.cache_bits].measure(point.at(config.steps)).row
            # The baseline has no cache: its row says None.
            return {key: row[key] for key in FIGURES} | {"cache_mb": row["cache_mb"] or 0.0}

        return measure

    def compare(self, group: list[GridPoint], rows: list[Row]) -> list[Row]:
        """Add the difference of each point's FID from the baseline's FID.

        FID over few images is biased upwards. The bias is about the same for all points of a run,
        which share their noise samples, so that the difference is nearly free of it.
        """
        bare = [row["fid"] for row, one in zip(rows, group, strict=True) if one.gate is None]
        reference = bare[0] if bare else None
        return [
            row | {"fid_change": None if reference is None else row["fid"] - reference}
            for row in rows
        ]


def lay_out(config: SweepConfig) -> tuple[list[GridPoint], dict[str, float]]:
    """Return the points of a grid, and the figures observed to choose the points."""
    grid = config.grid
    if isinstance(grid, ScheduleGrid):
        return grid.points(find_model(config.model).num_layers, config.steps), {}
    if grid.entropy_threshold is not None:
        facts = {"entropy_threshold": grid.entropy_threshold}
    else:
        quantile = grid.decided().entropy_quantile
        assert quantile is not None  # without a threshold
        facts = observe_entropy(config, quantile)
    return ablation_points(grid, facts["entropy_threshold"]), facts


def observe_entropy(config: SweepConfig, quantile: float) -> dict[str, float]:
    """Return the least and largest attention entropy on calibration samples and one quantile, nats.

    Args:
        quantile: quantile in [0, 1] that becomes the entropy threshold.
    """
    worker = EvaluationWorker(config.evaluate_config(0, 32))
    task = CalibrationTask(
        name="observe", gate=NeverReuse(), num_samples=min(OBSERVED, config.batch_size)
    )
    entropies = worker.calibrate(task).entropies
    return {
        "entropy_min": float(entropies.min()),
        "entropy_max": float(entropies.max()),
        # The entropy gate lets reuse entropies strictly below tau: the factor lets quantile 1
        # include the largest entropy.
        "entropy_threshold": float(entropies.quantile(quantile)) * (1.0 + 1e-6),
    }
