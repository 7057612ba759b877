"""Schedules of operating points, exported as plans and listed in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dqar.gates.rules import MaskGate
from dqar.schedules.export import export_plan
from dqar.schedules.serialization import save_plan
from dqar.schedules.static_plan import StaticPlan
from pipeline.evaluate.tasks import PointResult
from pipeline.methods.base import OperatingPoint
from pipeline.report.plan_files import FOLDER, name_of


def plan_of(
    point: OperatingPoint, sites: tuple[str, ...], num_layers: int, scheduler: Any
) -> StaticPlan | None:
    """Return the static plan of an operating point with a schedule; None for other points.

    Args:
        point: operating point.
        sites: sites of the evaluation.
        num_layers: transformer blocks of the model.
        scheduler: scheduler whose timesteps are set as the operating point was sampled.
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
    """Write the plans into a results folder and remove those of an earlier evaluation.

    Returns:
        A section of the report that lists the plans; empty if there are none.
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
        "Schedule of each operating point that has one, the best that its method found on "
        "calibration noise samples, and its origin: the policy's own schedule (`policy`), an "
        "alternative that its training made (`alternative`), uniformly spaced steps (`uniform`), a "
        "spacing rule (`spaced`), the minimax path over stretches (`stretches`) or a search's "
        "moves (`search`)."
    )
    return "\n".join([head, "", *lines, ""])


def _line(row: dict[str, Any], path: str) -> str:
    return f"- {row['method']} {row['operating_point']}: from `{row['schedule_source']}`, in {path}"
