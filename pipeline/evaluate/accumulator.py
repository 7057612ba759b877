"""What the batches of one operating point add up to: sums and no averages, so that tallies of some
samples each add up to the tally of them all."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from dqar.control.summary import ReuseSummary
from pipeline.models.image_metrics import Deltas, FeatureSums

SUMS = ("latent_rel_l2", "psnr", "ssim")
"""What is averaged over samples."""


@dataclass(slots=True)
class MetricAccumulator:
    """Filled batch by batch."""

    samples: int = 0
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Of each of :data:`SUMS` over the samples, and of its square under ``NAME_squared``."""
    matches: int | None = None
    """Images that show the class asked for; None without a classifier."""
    features: FeatureSums | None = None
    """Of the images; None where the model has none."""
    flops: float = 0.0
    """Spent, the method's own arithmetic included."""
    reference_flops: float = 0.0
    """Spent by the twins."""
    timed: int = 0
    """Samples that were timed."""
    seconds: float = 0.0
    """Of the timed samples."""
    reference_seconds: float = 0.0
    """Of their twins, each sampled right before."""
    images: list[np.ndarray] = field(default_factory=list)
    """The first images, ``[height, width, channels]`` in [0, 1]."""
    references: list[np.ndarray] = field(default_factory=list)
    """Their twins."""
    reused: int = 0
    gates: int = 0
    reused_by_site: Counter[str] = field(default_factory=Counter)
    shared_by_site: Counter[str] = field(default_factory=Counter)
    """Gates that computed one guidance branch for both."""
    actions_by_site: defaultdict[str, Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    """Reuses by what they showed."""
    cache_bytes: int = 0
    """The most that any batch held."""
    peak_memory_mb: float | None = None
    """The most that any worker's device held; None where it does not tell."""

    def count(self, summary: ReuseSummary) -> None:
        """Add what a batch's controller did."""
        self.reused += summary.reused
        self.gates += summary.gates
        self.reused_by_site.update(summary.by_site)
        self.shared_by_site.update(summary.shared_by_site)
        for site, actions in summary.actions_by_site.items():
            self.actions_by_site[site].update(actions)
        self.cache_bytes = max(self.cache_bytes, summary.cache_bytes)

    def judge(self, deltas: Deltas) -> None:
        """Add a batch's distances from its twins."""
        self.samples += len(deltas.latent_rel_l2)
        for name in SUMS:
            values: Tensor = getattr(deltas, name).double().cpu()
            self.sums[name] += float(values.sum())
            self.sums[f"{name}_squared"] += float(values.square().sum())

    def add(self, other: MetricAccumulator) -> None:
        """Add what the samples that follow add up to."""
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
        """Over the samples, of one of :data:`SUMS`."""
        return self.sums[name] / self.samples

    def standard_error(self, name: str) -> float:
        """Of that mean; 0 of a single sample."""
        if self.samples < 2:
            return 0.0
        # Rounding may leave a variance of nothing a hair below 0.
        squares = self.sums[f"{name}_squared"] - self.samples * self.mean(name) ** 2
        return math.sqrt(max(0.0, squares) / (self.samples - 1) / self.samples)

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


def sum_metrics(tallies: Iterable[MetricAccumulator]) -> MetricAccumulator:
    """What tallies add up to, in the order of their samples."""
    total = MetricAccumulator()
    for metrics in tallies:
        total.add(metrics)
    return total


def _sum_of(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return one + other
