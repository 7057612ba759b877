"""Rows of results.json, from the summed task results of an operating point, and read back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dqar.validation import validate
from pipeline.errors import InputError
from pipeline.evaluate.accumulator import MetricAccumulator, sum_metrics
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.speed_bound import speed_bound
from pipeline.evaluate.tasks import EvalTaskResult, PointResult
from pipeline.methods.base import CalibrationCost, OperatingPoint
from pipeline.models.image_metrics import frechet_of_sums
from pipeline.statistics import normal_interval

GRID_IMAGES = 8
"""Number of images of an operating point that samples.png shows, the first ones."""
NO_CALIBRATION = CalibrationCost()


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedColumns:
    """Columns of a row that comparisons of several evaluations read."""

    method: str
    model: str
    sites: str
    sampler: str
    steps: int
    guidance: float
    num_samples: int
    seed: int
    reuse_ratio: float
    flops_ratio: float
    latent_rel_l2: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRows:
    """Rows of one evaluation, at least one."""

    rows: tuple[ComparedColumns, ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("rows must hold an operating point. Got none. Evaluate again.")


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of an evaluation's ``results.json``, all columns of each.

    Raises:
        ValueError: one line that names the file, the row and the column that is wrong.
    """
    path = folder / "results.json"
    fix = "Pass a results folder of jobs/evaluate.py."
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be an evaluation's JSON. Got: {error}. {fix}") from error
    compared = [_compared(row) for row in rows] if isinstance(rows, list) else rows
    validate({"rows": compared}, ResultRows, name=str(path), fix=fix)
    return rows


def _compared(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {entry.name: row[entry.name] for entry in fields(ComparedColumns) if entry.name in row}


def measured_of(
    point: OperatingPoint,
    config: EvaluateConfig,
    parts: Sequence[EvalTaskResult],
    cost: CalibrationCost = NO_CALIBRATION,
) -> PointResult:
    """Merge the results of an operating point's tasks, in the order of their samples.

    Args:
        point: operating point.
        config: settings of the evaluation.
        parts: results of all tasks of the point.
        cost: calibration that the point's method has spent.

    Raises:
        InputError: if the tasks ran on different kinds of device.
    """
    devices = sorted({part.device for part in parts})
    if len(devices) > 1:
        raise InputError(
            f"All samples of a point must be measured on one device. Got {devices} for "
            f"{point.method} {point.operating_point}. Pass --accelerator-type, or a new --out."
        )
    metrics, first = sum_metrics(part.metrics for part in parts), parts[0]
    return PointResult(
        row=_row(
            point, config.with_reuse_setting(point.forecast_order, point.feedback), metrics, first
        )
        | {
            "calibration_trajectories": cost.trajectories,
            "tuning_evaluations": cost.evaluations,
        },
        images=np.stack(metrics.images[:GRID_IMAGES]),
        reference_images=np.stack(metrics.references[:GRID_IMAGES]),
        plan=first.plan,
    )


def _row(
    point: OperatingPoint, config: EvaluateConfig, metrics: MetricAccumulator, first: EvalTaskResult
) -> dict[str, Any]:
    mean = metrics.mean("latent_rel_l2")
    low, high = normal_interval(mean, metrics.standard_error("latent_rel_l2"))
    return {
        "method": point.method,
        "operating_point": point.operating_point,
        "schedule_source": point.schedule_source,
        **config.columns(),
        "sampler": point.sampler or config.sampler,
        "reuse_ratio": metrics.reuse_ratio,
        "flops_ratio": metrics.reference_flops / metrics.flops,
        "speedup": metrics.reference_seconds / metrics.seconds,
        "speedup_bound": _bound(config, metrics, first),
        "latency_s": metrics.seconds / metrics.timed,
        "latent_rel_l2": mean,
        "latent_rel_l2_ci95": [max(0.0, low), high],
        "latent_rel_l2_p90": float(np.quantile(metrics.errors, 0.9)),
        "latent_rel_l2_worst": max(metrics.errors),
        "latent_rel_l2_samples": metrics.errors,
        **solution_columns(config.solution_steps, metrics.solution_errors),
        "psnr": metrics.mean("psnr"),
        "ssim": metrics.mean("ssim"),
        "fid": _fid(metrics, first),
        "fid_features": None if first.real_features is None else "digits-classifier-64",
        "label_accuracy": None if metrics.matches is None else metrics.matches / metrics.samples,
        "cache_mb": metrics.cache_bytes / 2**20 if metrics.gates else None,
        "peak_memory_mb": metrics.peak_memory_mb,
        "steps": point.steps,
        "device": first.device,
    }


def solution_columns(steps: int | None, errors: Sequence[float]) -> dict[str, Any]:
    """Return the columns of results.json on the distance to the solutions; None without them.

    Args:
        steps: steps of the solutions.
        errors: relative L2 distance of each sample's final latent to its solution.
    """
    names = ("solution_rel_l2", "solution_rel_l2_ci95", "solution_rel_l2_p90")
    if not errors:
        worst = ("solution_rel_l2_worst", "solution_rel_l2_samples", "solution_steps")
        return dict.fromkeys((*names, *worst))
    mean, spread = float(np.mean(errors)), float(np.std(errors))
    low, high = normal_interval(mean, spread / math.sqrt(max(1, len(errors) - 1)))
    values = (mean, [max(0.0, low), high], float(np.quantile(errors, 0.9)))
    return dict(zip(names, values, strict=True)) | {
        "solution_rel_l2_worst": max(errors),
        "solution_rel_l2_samples": list(errors),
        "solution_steps": steps,
    }


def _bound(
    config: EvaluateConfig, metrics: MetricAccumulator, first: EvalTaskResult
) -> float | None:
    if not metrics.gates:
        return None
    skipped = metrics.skipped_by_site(config.sites, config.num_branches)
    return speed_bound(first.site_share, skipped)


def _fid(metrics: MetricAccumulator, first: EvalTaskResult) -> float | None:
    if metrics.features is None or first.real_features is None or metrics.samples < 2:
        return None
    return frechet_of_sums(metrics.features, first.real_features)
