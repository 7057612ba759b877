"""From what parts of a point add up to, to its row of results.json. No model, no worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.evaluate.accumulator import MetricAccumulator, total_of
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.speed_bound import speed_bound
from pipeline.evaluate.tasks import EvalTaskResult, PointResult
from pipeline.methods.base import OperatingPoint
from pipeline.models.image_metrics import frechet_of_sums

GRID_IMAGES = 8
"""First images of a point that are shown."""


def measured_of(
    point: OperatingPoint, config: EvaluateConfig, parts: Sequence[EvalTaskResult]
) -> PointResult:
    """A point of all its parts, in the order of their samples.

    Raises:
        InputError: if they were measured on different devices.
    """
    devices = sorted({part.device for part in parts})
    if len(devices) > 1:
        raise InputError(
            f"All samples of a point must be measured on one device. Got {devices} for "
            f"{point.method} {point.operating_point}. Pass --accelerator-type, or a new --out."
        )
    tally, first = total_of(part.tally for part in parts), parts[0]
    return PointResult(
        row=_row(
            point, config.with_reuse_setting(point.forecast_order, point.feedback), tally, first
        ),
        images=np.stack(tally.images[:GRID_IMAGES]),
        twin_images=np.stack(tally.twins[:GRID_IMAGES]),
        plan=first.plan,
    )


def _row(
    point: OperatingPoint, config: EvaluateConfig, tally: MetricAccumulator, first: EvalTaskResult
) -> dict[str, Any]:
    mean = tally.mean("latent_rel_l2")
    half = 1.96 * tally.standard_error("latent_rel_l2")
    return {
        "method": point.method,
        "operating_point": point.operating_point,
        "schedule": point.schedule and point.schedule.kind,
        **config.columns(),
        "sampler": point.sampler or config.sampler,
        "reuse_ratio": tally.reuse_ratio,
        "flops_ratio": tally.twin_flops / tally.flops,
        "speedup": tally.twin_seconds / tally.seconds,
        "speedup_bound": _bound(config, tally, first),
        "latency_s": tally.seconds / tally.timed,
        "latent_rel_l2": mean,
        "latent_rel_l2_ci95": [max(0.0, mean - half), mean + half],
        "psnr": tally.mean("psnr"),
        "ssim": tally.mean("ssim"),
        "fid": _fid(tally, first),
        "fid_features": None if first.reference is None else "digits-classifier-64",
        "label_accuracy": None if tally.matches is None else tally.matches / tally.samples,
        "cache_mb": tally.cache_bytes / 2**20 if tally.gates else None,
        "peak_memory_mb": tally.peak_memory_mb,
        "steps": point.steps,
        "device": first.device,
    }


def _bound(config: EvaluateConfig, tally: MetricAccumulator, first: EvalTaskResult) -> float | None:
    if not tally.gates:
        return None
    skipped = tally.skipped_by_site(config.sites, config.num_branches)
    return speed_bound(first.site_share, skipped)


def _fid(tally: MetricAccumulator, first: EvalTaskResult) -> float | None:
    if tally.features is None or first.reference is None or tally.samples < 2:
        return None
    return frechet_of_sums(tally.features, first.reference)
