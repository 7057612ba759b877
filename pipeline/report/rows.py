"""Rows of results.json as the report reads them, from a running evaluation or from a file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from pipeline.methods import registry
from pipeline.methods.base import Role


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportRow:
    """Columns of an operating point that the report shows. Older results lack some of them."""

    method: str
    operating_point: str
    flops_ratio: float
    latent_rel_l2: float
    reuse_ratio: float | None = None
    latent_rel_l2_ci95: tuple[float, float] | None = None
    latent_rel_l2_p90: float | None = None
    latent_rel_l2_worst: float | None = None
    latent_rel_l2_samples: tuple[float, ...] | None = None
    """Error of each sample, in the order of the noise samples."""
    solution_rel_l2: float | None = None
    speedup: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    fid: float | None = None
    schedule_source: str | None = None
    """Origin of the schedule of a learned point; None for a point without a plan."""
    forecast_order: int = 0
    feedback: float = 0.0
    model: str | None = None
    sites: str | None = None
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    num_samples: int | None = None
    seed: int | None = None
    dtype: str | None = None
    device: str | None = None
    calibration_trajectories: int | None = None
    tuning_evaluations: int | None = None

    @classmethod
    def of(cls, row: dict[str, Any]) -> ReportRow:
        """Return the columns of a row, unchecked."""
        columns = {name: row[name] for name in row.keys() & NAMES}
        lists: dict[str, Any] = {
            name: tuple(one) for name, one in columns.items() if isinstance(one, list)
        }
        return cls(**(columns | lists))

    @property
    def name(self) -> str:
        """Method and setting."""
        return f"{self.method} {self.operating_point}"


NAMES = {entry.name for entry in fields(ReportRow)}
"""Columns that the report reads."""


def role_of(method: str) -> Role:
    """Return the role of a row's method; a method that this release lacks is an alternative."""
    try:
        return registry.method_of(method).role
    except ValueError:
        return "alternative"


def methods_of(rows: list[dict[str, Any]]) -> list[str]:
    """Return the method names of the rows without the reference samples, each once."""
    names = dict.fromkeys(row["method"] for row in rows)
    return [name for name in names if role_of(name) != "reference"]
