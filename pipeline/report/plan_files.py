"""Names of the plans within a results folder."""

from __future__ import annotations

from typing import Any

FOLDER = "plans"
"""Folder of the plans within a results folder."""


def name_of(row: dict[str, Any]) -> str:
    """Return the file name of an operating point's plan, with its forecast order and gain."""
    point = row["operating_point"].partition(",order=")[0]
    point = point.replace(",computed=", "-").replace("=", "-")
    return (
        f"{row['method']}-{point}-order-{row['forecast_order']}-feedback-{row['feedback']:g}.json"
    )


def path_of(row: dict[str, Any]) -> str | None:
    """Return the path of an operating point's plan in its results folder; None without a plan."""
    return f"{FOLDER}/{name_of(row)}" if row.get("schedule_source") else None
