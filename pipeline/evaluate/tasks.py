"""Measurement tasks of an evaluation's workers, and the encoding of their results."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqar.schedules.serialization import plan_document, plan_of_document
from dqar.schedules.static_plan import StaticPlan
from pipeline.evaluate.accumulator import MetricAccumulator
from pipeline.evaluate.answer_cache import Work
from pipeline.methods.base import OperatingPoint
from pipeline.methods.task import Arrays, SolutionTask, Stored
from pipeline.models.image_metrics import FeatureSums
from pipeline.progress import Progress

# Fields of MetricAccumulator that a result on disk holds, in the order of its JSON.
PLAIN = ("samples", "matches", "flops", "reference_flops", "timed", "seconds", "reference_seconds")
COUNTED = ("reused", "gates", "cache_bytes", "peak_memory_mb", "errors", "solution_errors")
BY_NAME = ("sums", "reused_by_site", "shared_by_site", "actions_by_site")


def solve(tasks: Sequence[SolutionTask], work: Work) -> Tensor | None:
    """Return the solutions of all evaluation samples; None without tasks.

    Args:
        tasks: tasks of all samples, in their order.
        work: runs tasks on the evaluation's workers.
    """
    if not tasks:
        return None
    progress = Progress(
        "solve by many steps", sum(len(task.noise_ids) for task in tasks), "samples"
    )
    found: dict[str, Tensor] = {}
    for task, solved in work(tasks):
        found[task.name] = solved.latents
        progress.advance(len(task.noise_ids))
    return torch.cat([found[task.name] for task in tasks])


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalTask:
    """Measurement of some evaluation samples of one operating point."""

    point: OperatingPoint
    """Operating point to measure."""
    start: int
    """Index of the first sample."""
    stop: int
    """Index after the last sample."""
    solutions: Tensor | None = field(default=None, compare=False)
    """Solutions of the samples by many steps (:class:`SolutionTask`), in fp32 on the
    CPU; None if the evaluation asks for none."""

    def __len__(self) -> int:
        return self.stop - self.start

    def decode(self, stored: Stored, arrays: Arrays) -> EvalTaskResult:
        """Rebuild a result from its encoded form.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: if the encoded form is damaged.
        """
        metrics = _metrics_of(stored, arrays)
        if (metrics.samples, len(metrics.errors)) != (len(self), len(self)):
            raise ValueError(
                f"samples must be {len(self)}. Got {metrics.samples} with {len(metrics.errors)} "
                "errors. Measure the task again."
            )
        return EvalTaskResult(
            metrics=metrics,
            device=stored["device"],
            site_share=stored["site_share"],
            real_features=_sums("reference", stored, arrays),
            plan=None if stored["plan"] is None else plan_of_document(stored["plan"]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalTaskResult:
    """Result of a task: sums over its samples."""

    metrics: MetricAccumulator
    """Sums of the metrics."""
    device: str
    """Name of the device that ran the task."""
    site_share: dict[str, float]
    """Share of a forward pass's time that each site takes; empty if the task timed no samples, or
    if the operating point has no gate."""
    real_features: FeatureSums | None = None
    """Features of the real images that FID compares with; None if the model has no features."""
    plan: StaticPlan | None = None
    """Action of each gate at each step, for an operating point with a schedule."""

    def encode(self) -> tuple[Stored, Arrays]:
        """Return the result as JSON values and arrays."""
        metrics = self.metrics
        stored = {name: getattr(metrics, name) for name in (*PLAIN, *COUNTED, *BY_NAME)}
        stored |= {"device": self.device, "site_share": self.site_share}
        stored["plan"] = None if self.plan is None else plan_document(self.plan)
        arrays = {f"image{i}": image for i, image in enumerate(metrics.images)}
        arrays |= {f"twin{i}": image for i, image in enumerate(metrics.references)}
        stored["shown"] = len(metrics.images)
        for name, sums in (("features", metrics.features), ("reference", self.real_features)):
            stored[name] = None if sums is None else sums.count
            if sums is not None:
                arrays |= {f"{name}_total": sums.total.numpy(), f"{name}_outer": sums.outer.numpy()}
        return stored, arrays


def _metrics_of(stored: Stored, arrays: Arrays) -> MetricAccumulator:
    metrics = MetricAccumulator(**{name: stored[name] for name in (*PLAIN, *COUNTED)})
    metrics.sums = defaultdict(float, stored["sums"])
    metrics.reused_by_site = Counter(stored["reused_by_site"])
    metrics.shared_by_site = Counter(stored["shared_by_site"])
    for site, actions in stored["actions_by_site"].items():
        metrics.actions_by_site[site] = Counter(actions)
    metrics.images = [arrays[f"image{i}"] for i in range(stored["shown"])]
    metrics.references = [arrays[f"twin{i}"] for i in range(stored["shown"])]
    metrics.features = _sums("features", stored, arrays)
    return metrics


def _sums(name: str, stored: Stored, arrays: Arrays) -> FeatureSums | None:
    if stored[name] is None:
        return None
    total, outer = (torch.from_numpy(arrays[f"{name}_{kind}"]) for kind in ("total", "outer"))
    return FeatureSums(count=stored[name], total=total, outer=outer)


@dataclass(frozen=True, kw_only=True, slots=True)
class PointResult:
    """Result of one operating point on all evaluation noise samples."""

    row: dict[str, Any]
    """Row of results.json."""
    images: np.ndarray
    """The first images, ``[b, height, width, channels]`` in [0, 1]."""
    reference_images: np.ndarray
    """Images of the reference samples from the same noise samples, of the same shape."""
    plan: StaticPlan | None = None
    """Action of each gate at each step, for an operating point with a schedule."""
