"""SmoothCache (Liu et al. 2024, arXiv 2411.10510): static schedules from calibration curves.

A curve is the relative L1 distance between a site's outputs at two steps of the stock (unpatched)
model, measured on calibration noise. A site reuses as long as its curve is at most a threshold.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqar.config import CachedParts
from dqar.gates.rules import MaskGate
from pipeline.methods.base import (
    CalibrationBudget,
    CalibrationCost,
    Method,
    OperatingPoint,
    Session,
    SweepGrid,
)
from pipeline.methods.site_hooks import Place, hook_sites
from pipeline.methods.task import Arrays, ModelSampler, Stored
from pipeline.models.noise import batches_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """SmoothCache's error curves of a model."""

    error: Float[Tensor, "s l k t"]
    """Relative L1 distance by site, layer, gap (from 1 on) and step: the distance of the site's
    output at the step from its output ``gap`` steps before, mean over samples and guidance
    branches. NaN where fewer than ``gap`` steps lie before the step."""

    def encode(self) -> tuple[Stored, Arrays]:
        """Return the result as JSON values and arrays."""
        return {}, {"error": self.error.numpy()}


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveTask:
    """Calibration task that measures the curves of all sites over runs of the stock model."""

    name: str = "curves"
    """Name of the result."""
    num_samples: int = 16
    """Runs of the stock model, one for each calibration noise sample."""
    at_once: int = 4
    """Samples in one batch. A batch keeps, for every sample, site and layer, the outputs of
    ``largest_gap`` steps in memory."""
    largest_gap: int = 8
    """Largest number of steps between two outputs that are compared."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "at_once", "largest_gap"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1. Got {value}. Pass 8.")

    def batches(self) -> list[range]:
        """Return the noise sample indices of each batch."""
        return batches_of(self.num_samples, self.at_once)

    @property
    def trajectories(self) -> int:
        """Number of runs of the stock model."""
        return self.num_samples

    @property
    def references(self) -> frozenset[int]:
        """No reference samples: the runs of the stock model are counted as trajectories."""
        return frozenset()

    def run(self, sampler: ModelSampler) -> Curves:
        """Record the sites over runs of the stock model, batch by batch."""
        found = [len(ids) * self._curves_of(sampler, ids) for ids in self.batches()]
        return Curves(error=torch.stack(found).sum(dim=0) / self.num_samples)

    def _curves_of(self, sampler: ModelSampler, ids: range) -> Float[Tensor, "s l k t"]:
        noise, labels = sampler.draw("calibrate", list(ids))
        transformer, config = sampler.model.transformer, sampler.config
        with measure_curves(transformer, config.sites, config.cached, self.largest_gap) as recorder:
            sampler.sample(noise, labels, config.steps, None)
        return recorder.curves()

    def decode(self, stored: Stored, arrays: Arrays) -> Curves:
        """Rebuild a result from its encoded form."""
        return Curves(error=torch.from_numpy(arrays["error"]))


class CurveRecorder:
    """Distances between the outputs of each site at different steps of one run.

    Args:
        largest_gap: number of earlier outputs that are kept for each site, layer and module.
    """

    def __init__(self, largest_gap: int) -> None:
        self.largest_gap = largest_gap
        self.past: defaultdict[Place, deque[Tensor]] = defaultdict(deque)
        self.moved: defaultdict[Place, list[Float[Tensor, " k"]]] = defaultdict(list)

    def note(self, place: Place, output: Float[Tensor, "r n d"]) -> None:
        """Compare an output with the kept outputs of earlier steps, latest first, then keep it."""
        past = self.past[place]
        errors = torch.full((self.largest_gap,), torch.nan, device=output.device)
        for index, earlier in enumerate(past):
            errors[index] = relative_l1(earlier, output)
        self.moved[place].append(errors)
        past.appendleft(output)
        if len(past) > self.largest_gap:
            past.pop()

    def curves(self) -> Float[Tensor, "s l k t"]:
        """Return the distances by site, layer, gap and step, mean over the modules of a site."""
        places = sorted(self.moved)
        rows = torch.stack([torch.stack(self.moved[place], dim=1) for place in places])
        shape = [len(set(column)) for column in zip(*places, strict=True)]
        return rows.unflatten(0, shape).mean(dim=2).cpu()


def relative_l1(
    earlier: Float[Tensor, "r *axes"], output: Float[Tensor, "r *axes"]
) -> Float[Tensor, ""]:
    """Return ``||output - earlier||_1 / ||output||_1``, mean over rows."""
    distance = (output.float() - earlier.float()).flatten(1).abs().sum(dim=1)
    size = output.float().flatten(1).abs().sum(dim=1)
    return (distance / size.clamp_min(1e-12)).mean()


@contextmanager
def measure_curves(
    transformer: Any, sites: tuple[str, ...], cached: CachedParts, largest_gap: int
) -> Iterator[CurveRecorder]:
    """Record the tensors that the sites would cache, while the stock model runs unchanged.

    Args:
        cached: cached part of ``attn``: its output, or its keys and values.
        largest_gap: largest number of steps between two outputs that are compared.
    """
    recorder = CurveRecorder(largest_gap)
    with hook_sites(transformer, sites, cached, recorder.note):
        yield recorder


class SmoothCache(Method):
    """SmoothCache with one schedule for each type of site, by the curve of that type."""

    name = "smoothcache"
    is_tied: ClassVar[bool] = False
    """True if all sites follow one schedule, by the mean of their curves."""

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        task = CurveTask()
        self._curves = session.calibrate([task])[task.name]
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        return self.sweep(session.comparison.grid, self._curves)

    @classmethod
    def sweep(cls, grid: SweepGrid, curves: Curves) -> list[OperatingPoint]:
        """Return, for each reuse ratio of a grid, the schedule whose reuse ratio is nearest."""
        num_sites, num_layers = curves.error.shape[:2]
        error = curves.error.mean(dim=1)
        if cls.is_tied:
            error = error.mean(dim=0, keepdim=True)
        alphas = alphas_for(grid.reuse_ratios, error)
        gates = schedules(error, alphas).expand(-1, num_sites, -1)
        gates = gates.repeat_interleave(num_layers, dim=1)
        return [
            _point(cls.name, float(alpha), one) for alpha, one in zip(alphas, gates, strict=True)
        ]


class SmoothCacheTied(SmoothCache):
    """SmoothCache with one schedule for all sites, by the mean of their curves."""

    name = "smoothcache-tied"
    is_tied = True


def schedules(error: Float[Tensor, "s k t"], alphas: Float[Tensor, " a"]) -> Bool[Tensor, "a s t"]:
    """Return the steps at which each site type reuses, for each threshold alpha.

    A site type computes at the first step, at each step where its curve at the gap since its last
    computation is above alpha, and where that gap exceeds the largest gap of the curves.

    Args:
        error: curves by site type, gap (from 1 on) and step; NaN counts as above any alpha.
        alphas: thresholds of the relative L1 distance.
    """
    num_sites, largest_gap, steps = error.shape
    reuse = torch.zeros(len(alphas), num_sites, steps, dtype=torch.bool)
    reused = torch.zeros(len(alphas), num_sites, dtype=torch.long)
    site = torch.arange(num_sites)
    for step in range(1, steps):
        known = error[site, reused.clamp_max(largest_gap - 1), step]
        reuse[:, :, step] = (reused < largest_gap) & (known <= alphas[:, None])
        reused = (reused + 1) * reuse[:, :, step]
    return reuse


def alphas_for(ratios: tuple[float, ...], error: Float[Tensor, "s k t"]) -> Float[Tensor, " a"]:
    """Return the thresholds whose schedules come nearest to the reuse ratios, without duplicates.

    A schedule changes only where alpha passes a value of the curves, so every distinct schedule is
    tried. Bisection could miss the nearest: the reuse ratio is not monotone in alpha where a curve
    rises and falls. Among equally near thresholds the smallest is taken.

    Args:
        ratios: reuse ratios to reach.
        error: curves by site type, gap and step.
    """
    values = error[error.isfinite()].unique()
    options = torch.cat([values.new_zeros(1), values])
    achieved = schedules(error, options).double().mean(dim=(1, 2))
    chosen = [int((achieved - ratio).abs().argmin()) for ratio in ratios]
    return options[sorted(set(chosen))]


def _point(method: str, alpha: float, reuse: Bool[Tensor, "g t"]) -> OperatingPoint:
    return OperatingPoint(
        method=method,
        operating_point=f"alpha={alpha:.6g}",
        steps=reuse.shape[1],
        gate=MaskGate(reuse.T[:, :, None]),
    )
