"""Schedules of learned points: as plans to sample by, and as a section of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dqar.gates.rules import MaskGate
from dqar.schedules.export import export_plan
from dqar.schedules.serialization import save_plan
from dqar.schedules.static_plan import StaticPlan
from pipeline.evaluate.tasks import PointResult
from pipeline.methods.base import OperatingPoint

FOLDER = "plans"
"""Folder of the plans within a results folder."""


def plan_of(
    point: OperatingPoint, sites: tuple[str, ...], num_layers: int, scheduler: Any
) -> StaticPlan | None:
    """The plan of a planned policy's point, gate by gate; None for other points.

    Args:
        scheduler: whose timesteps are those of the point.
    """
    if point.schedule is None:
        return None
    gate = MaskGate(point.schedule.mask(point.steps)[:, None, None])
    return export_plan(
        gate,
        sites=sites,
        num_layers=num_layers,
        scheduler=scheduler,
        forecast_order=point.forecast_order,
        feedback=point.feedback,
    )


def write_plans(measured: list[PointResult], folder: Path) -> str:
    """Write the plans below a results folder, in place of those of an earlier evaluation.

    Returns:
        A section of the report; empty where no policy plans.
    """
    for old in (folder / FOLDER).glob("*.json"):
        old.unlink()
    lines = []
    for one in measured:
        if one.plan is not None:
            path = folder / FOLDER / name_of(one.row)
            save_plan(one.plan, path)
            lines.append(_line(one.row, f"{FOLDER}/{path.name}"))
    if not lines:
        return ""
    head = (
        "Schedule of each learned operating point: the one with the smallest error on calibration "
        "noise samples, among the policy's own schedule (`policy`), the alternatives that its "
        "training made (`alternative`) and uniformly spaced steps (`uniform`), each with several "
        "forecast orders and gains of the error feedback."
    )
    return "\n".join([head, "", *lines, ""])


def name_of(row: dict[str, Any]) -> str:
    """File name of a point's plan, with its forecast order and its feedback."""
    point = row["operating_point"].partition(",order=")[0]
    point = point.replace(",computed=", "-").replace("=", "-")
    return (
        f"{row['method']}-{point}-order-{row['forecast_order']}-feedback-{row['feedback']:g}.json"
    )


def _line(row: dict[str, Any], path: str) -> str:
    return f"- {row['method']} {row['operating_point']}: from `{row['schedule_source']}`, in {path}"
