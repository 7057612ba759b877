"""Metrics of one operating point as sums: those of parts of its samples add up to those of all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from dqar.control.summary import ReuseSummary
from pipeline.models.image_metrics import Deltas, FeatureSums
from pipeline.statistics import standard_error

SUMS = ("latent_rel_l2", "psnr", "ssim")
"""Metrics that are averaged over samples."""


@dataclass(slots=True)
class MetricAccumulator:
    """Sums over samples, filled batch by batch."""

    samples: int = 0
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sum over the samples of each of :data:`SUMS`, and of its square as ``NAME_squared``."""
    matches: int | None = None
    """Number of images that show the class asked for; None without a classifier."""
    features: FeatureSums | None = None
    """Features of the images; None where the model has none."""
    flops: float = 0.0
    """FLOPs of the method, its own arithmetic included."""
    reference_flops: float = 0.0
    """FLOPs of the reference samples."""
    timed: int = 0
    """Samples that were timed."""
    seconds: float = 0.0
    """Time of the timed samples."""
    reference_seconds: float = 0.0
    """Time of their reference samples, each sampled right before."""
    images: list[np.ndarray] = field(default_factory=list)
    """The first images, ``[height, width, channels]`` in [0, 1]."""
    references: list[np.ndarray] = field(default_factory=list)
    """Their reference images."""
    reused: int = 0
    gates: int = 0
    reused_by_site: Counter[str] = field(default_factory=Counter)
    shared_by_site: Counter[str] = field(default_factory=Counter)
    """Gates that computed one guidance branch for both."""
    actions_by_site: defaultdict[str, Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    """Reuses by action (:data:`dqar.records.ACTIONS`)."""
    cache_bytes: int = 0
    """Largest cache of any batch."""
    peak_memory_mb: float | None = None
    """Largest memory of any worker's device; None where it is unknown."""

    def count(self, summary: ReuseSummary) -> None:
        """Add the decisions of a batch's controller."""
        self.reused += summary.reused
        self.gates += summary.gates
        self.reused_by_site.update(summary.by_site)
        self.shared_by_site.update(summary.shared_by_site)
        for site, actions in summary.actions_by_site.items():
            self.actions_by_site[site].update(actions)
        self.cache_bytes = max(self.cache_bytes, summary.cache_bytes)

    def judge(self, deltas: Deltas) -> None:
        """Add a batch's distances from its reference samples."""
        self.samples += len(deltas.latent_rel_l2)
        for name in SUMS:
            values: Tensor = getattr(deltas, name).double().cpu()
            self.sums[name] += float(values.sum())
            self.sums[f"{name}_squared"] += float(values.square().sum())

    def add(self, other: MetricAccumulator) -> None:
        """Add the sums over the samples that follow."""
        for name in (
            "samples",
            "flops",
            "reference_flops",
            "timed",
            "seconds",
            "reference_seconds",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("reused", "gates", "images", "references"):
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
        """Mean over the samples of one of :data:`SUMS`."""
        return self.sums[name] / self.samples

    def standard_error(self, name: str) -> float:
        """Standard error of that mean; 0 of a single sample."""
        return standard_error(self.sums[name], self.sums[f"{name}_squared"], self.samples)

    @property
    def reuse_ratio(self) -> float:
        """Gates not computed / all gates."""
        return self.reused / self.gates if self.gates else 0.0

    def skipped_by_site(self, sites: tuple[str, ...], branches: int) -> dict[str, float]:
        """Share of each site's rows that were not computed; a shared gate skips one branch."""
        rows = self.gates / len(sites) * branches
        return {
            site: (self.reused_by_site[site] * branches + self.shared_by_site[site]) / rows
            for site in sites
        }


def sum_metrics(parts: Iterable[MetricAccumulator]) -> MetricAccumulator:
    """Total of the sums of parts, in the order of their samples."""
    total = MetricAccumulator()
    for metrics in parts:
        total.add(metrics)
    return total


def _sum_of(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return one + other
