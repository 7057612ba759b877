"""Rows of results.json with chosen errors, for tests of the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from dqar.schedules.static_plan import StaticPlan

STEPS = 10


def row(method: str, flops_ratio: float, error: float | list[float], **columns: Any) -> dict:
    """Return a row; errors given for each sample also give its interval and percentiles."""
    one: dict[str, Any] = {
        "method": method,
        "operating_point": f"at={flops_ratio:g}",
        "flops_ratio": flops_ratio,
        "reuse_ratio": 1.0 - 1.0 / flops_ratio,
        "latent_rel_l2": fmean(error) if isinstance(error, list) else error,
        "speedup": 1.0,
        "speedup_bound": None,
        "psnr": 30.0,
        "ssim": 0.9,
        "fid": None,
        "model": "digits",
        "steps": STEPS,
        "guidance": 2.0,
        "sampler": "ddim",
    }
    if isinstance(error, list):
        one["latent_rel_l2_samples"] = error
        one["latent_rel_l2_p90"] = float(np.quantile(error, 0.9))
        one["latent_rel_l2_worst"] = max(error)
    return one | columns


def learned(flops_ratio: float, error: float | list[float], **columns: Any) -> dict:
    """Return the row of a learned point, which has a plan."""
    plan = {
        "operating_point": f"policy,computed={round(STEPS / flops_ratio)},order=0,feedback=0",
        "schedule_source": "policy",
        "forecast_order": 0,
        "feedback": 0.0,
    }
    return row("learned", flops_ratio, error) | plan | columns


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Operating point with images and, if learned, a plan."""

    row: dict[str, Any]
    plan: StaticPlan | None = None
    images: np.ndarray = field(default_factory=lambda: np.full((3, 8, 8, 1), 0.5))
    reference_images: np.ndarray = field(default_factory=lambda: np.full((3, 8, 8, 1), 0.4))


SPREAD = [0.8, 0.9, 1.0, 1.1, 1.2]
"""Errors of samples around 1."""


def around(error: float) -> list[float]:
    """Return the errors of five samples with this mean."""
    return [error * one for one in SPREAD]
