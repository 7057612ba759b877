"""Metrics of one operating point as sums over samples, which add up over tasks and workers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from dqar.control.summary import ReuseSummary
from dqar.signals import relative_error
from pipeline.models.image_metrics import Deltas, FeatureSums
from pipeline.statistics import standard_error

SUMS = ("latent_rel_l2", "psnr", "ssim")
"""Metrics that are averaged over samples, by their name in :class:`Deltas`."""


@dataclass(slots=True)
class MetricAccumulator:
    """Sums of metrics over samples, filled batch by batch."""

    samples: int = 0
    """Number of samples."""
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sum over the samples of each of :data:`SUMS`, and of its square as ``NAME_squared``."""
    errors: list[float] = field(default_factory=list)
    """Relative L2 error of the final latent of each sample, in the order of the samples."""
    solution_errors: list[float] = field(default_factory=list)
    """Relative L2 distance of the final latent of each sample to its solution; empty without."""
    matches: int | None = None
    """Number of images that the classifier takes for the requested class; None without one."""
    features: FeatureSums | None = None
    """Sums of the image features for FID; None if the model has no features."""
    flops: float = 0.0
    """FLOPs of the method: transformer, entropies, policy, forecasts and error feedback."""
    reference_flops: float = 0.0
    """FLOPs of the reference samples."""
    timed: int = 0
    """Number of samples that were timed."""
    seconds: float = 0.0
    """Sampling time of the timed samples."""
    reference_seconds: float = 0.0
    """Sampling time of their reference samples, each batch sampled right before the method's."""
    images: list[np.ndarray] = field(default_factory=list)
    """The first images, ``[height, width, channels]`` in [0, 1]."""
    references: list[np.ndarray] = field(default_factory=list)
    """Reference images of :attr:`images`."""
    reused: int = 0
    """Number of reuse decisions (step, layer, site, sample) that reused."""
    gates: int = 0
    """Number of all reuse decisions."""
    reused_by_site: Counter[str] = field(default_factory=Counter)
    """:attr:`reused` by site."""
    shared_by_site: Counter[str] = field(default_factory=Counter)
    """Number of decisions, by site, that computed one guidance branch for both."""
    actions_by_site: defaultdict[str, Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    """Number of reuses by site and action (:data:`dqar.records.ACTIONS`)."""
    cache_bytes: int = 0
    """Largest cache of any batch, in bytes."""
    peak_memory_mb: float | None = None
    """Largest device memory of any worker, in MB; None if the device does not report it."""

    def count(self, summary: ReuseSummary) -> None:
        """Add the counts of decisions that a batch's controller made."""
        self.reused += summary.reused
        self.gates += summary.gates
        self.reused_by_site.update(summary.by_site)
        self.shared_by_site.update(summary.shared_by_site)
        for site, actions in summary.actions_by_site.items():
            self.actions_by_site[site].update(actions)
        self.cache_bytes = max(self.cache_bytes, summary.cache_bytes)

    def judge(self, deltas: Deltas) -> None:
        """Add the distances of a batch from its reference samples."""
        self.samples += len(deltas.latent_rel_l2)
        self.errors += deltas.latent_rel_l2.double().cpu().tolist()
        for name in SUMS:
            values: Tensor = getattr(deltas, name).double().cpu()
            self.sums[name] += float(values.sum())
            self.sums[f"{name}_squared"] += float(values.square().sum())

    def judge_solutions(self, latents: Tensor, solutions: Tensor) -> None:
        """Add the distances of a batch from its solutions by many steps."""
        distances = relative_error(latents.float(), solutions.to(latents.device).float())
        self.solution_errors += distances.double().cpu().tolist()

    def add(self, other: MetricAccumulator) -> None:
        """Add the sums over the next samples of the same operating point."""
        for name in (
            "samples",
            "flops",
            "reference_flops",
            "timed",
            "seconds",
            "reference_seconds",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("reused", "gates", "errors", "solution_errors", "images", "references"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, value in other.sums.items():
            self.sums[name] += value
        self.reused_by_site.update(other.reused_by_site)
        self.shared_by_site.update(other.shared_by_site)
        for site, actions in other.actions_by_site.items():
            self.actions_by_site[site].update(actions)
        self.matches = _sum_of(self.matches, other.matches)
        self.features = _sum_of(self.features, other.features)
        self.cache_bytes = max(self.cache_bytes, other.cache_bytes)
        peaks = [one.peak_memory_mb for one in (self, other) if one.peak_memory_mb is not None]
        self.peak_memory_mb = max(peaks, default=None)

    def mean(self, name: str) -> float:
        """Return the mean over samples of one of :data:`SUMS`."""
        return self.sums[name] / self.samples

    def standard_error(self, name: str) -> float:
        """Return the standard error of :meth:`mean`; 0 for a single sample."""
        return standard_error(self.sums[name], self.sums[f"{name}_squared"], self.samples)

    @property
    def reuse_ratio(self) -> float:
        """Share of the reuse decisions that reused, in [0, 1]."""
        return self.reused / self.gates if self.gates else 0.0

    def skipped_by_site(self, sites: tuple[str, ...], branches: int) -> dict[str, float]:
        """Return the share of each site's rows that were not computed.

        A row is one guidance branch of one sample. A decision that computes one guidance branch for
        both skips one row.
        """
        rows = self.gates / len(sites) * branches
        return {
            site: (self.reused_by_site[site] * branches + self.shared_by_site[site]) / rows
            for site in sites
        }


def sum_metrics(parts: Iterable[MetricAccumulator]) -> MetricAccumulator:
    """Add up the sums of several tasks, in the order of their samples."""
    total = MetricAccumulator()
    for metrics in parts:
        total.add(metrics)
    return total


def _sum_of(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return one + other
