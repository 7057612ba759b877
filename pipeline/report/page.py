"""Web page of an evaluation, from its rows, images and plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from dqar.schedules.static_plan import StaticPlan
from pipeline.report.choice import Choice
from pipeline.report.decision import Decision, decide
from pipeline.report.decision_text import shown_target
from pipeline.report.equal_flops import nearest_point
from pipeline.report.frontier_svg import frontier_svg
from pipeline.report.page_tables import (
    DataTable,
    Fact,
    equal_flops_table,
    facts_of,
    points_table,
)
from pipeline.report.reuse_map import reuse_map_svg
from pipeline.report.rows import ReportRow, methods_of
from pipeline.report.sample_strips import Pictured, SampleStrip, sample_strips

WIDE, NARROW = 1030.0, 340.0
"""Widths of the figures in pixels, for a window and for a telephone."""
MOST_STRIPS = 4
"""Most methods whose samples are shown at one saving."""

Rows = list[dict[str, Any]]
Plans = list[tuple[ReportRow, StaticPlan]]


@runtime_checkable
class Measured(Pictured, Protocol):
    """Operating point of an evaluation: its row of results.json, images and plan."""

    @property
    def row(self) -> dict[str, Any]:
        """Row of results.json."""
        ...

    @property
    def plan(self) -> StaticPlan | None:
        """Action of each gate at each step; None for a point without a schedule."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """The same figure drawn for a window and for a telephone, as SVG."""

    wide: str
    narrow: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Strips:
    """Samples of the most accurate methods at one saving."""

    target: str
    strips: tuple[SampleStrip, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Everything that the page shows."""

    title: str
    decision: Decision
    frontier: Figure | None
    """None if no method has an error above 0."""
    equal_flops: DataTable
    """Errors of the methods at equal FLOPs."""
    strips: tuple[Strips, ...]
    """Samples at each saving; none without images."""
    shipped_maps: Figure | None
    """Heat maps of the plans to ship; None without plans."""
    other_maps: Figure | None
    """Heat maps of all other plans."""
    points: DataTable
    """All operating points."""
    facts: tuple[Fact, ...]
    """Settings of the evaluation."""
    notes: tuple[str, ...]
    """Paragraphs on how to read the rows of some methods."""
    command: str
    """Command that made the results; empty if unknown."""
    redraw: str
    """Command that draws the page from the results again."""


def page_of(
    measured: Sequence[Measured],
    *,
    title: str,
    command: str = "",
    results: str = "RESULTS",
    notes: Sequence[str] = (),
) -> Page:
    """Return the page of an evaluation.

    Args:
        measured: operating points; those without images show no samples.
        title: heading.
        command: command that made the results.
        results: folder of the results, for the commands.
        notes: paragraphs on how to read the rows of some methods.
    """
    rows = [one.row for one in measured]
    decision = decide(rows, results)
    shipped, others = split_plans(measured, decision)
    return Page(
        title=title,
        decision=decision,
        frontier=_frontier(rows, decision.choices),
        equal_flops=equal_flops_table(rows),
        strips=tuple(filter(None, (_strips(measured, one) for one in decision.choices))),
        shipped_maps=_maps(shipped),
        other_maps=_maps(others),
        points=points_table(rows),
        facts=facts_of(rows),
        notes=tuple(notes),
        command=command,
        redraw=f"python -m pipeline.report {results}",
    )


def split_plans(measured: Sequence[Measured], decision: Decision) -> tuple[Plans, Plans]:
    """Return the plans of the points to ship, and all other plans, by growing savings."""
    plans = [(ReportRow.of(one.row), one.plan) for one in measured if one.plan is not None]
    plans.sort(key=lambda pair: pair[0].flops_ratio)
    shipped = [choice.row for choice in decision.choices]
    return (
        [(row, plan) for row, plan in plans if row in shipped],
        [(row, plan) for row, plan in plans if row not in shipped],
    )


def _maps(plans: Plans) -> Figure | None:
    if not plans:
        return None
    return Figure(wide=reuse_map_svg(plans, width=WIDE), narrow=reuse_map_svg(plans, width=NARROW))


def _frontier(rows: Rows, choices: tuple[Choice, ...]) -> Figure | None:
    wide = frontier_svg(rows, choices, width=WIDE, height=460.0)
    narrow = frontier_svg(rows, choices, width=NARROW, height=340.0)
    return Figure(wide=wide, narrow=narrow) if wide else None


def _strips(measured: Sequence[Measured], choice: Choice) -> Strips | None:
    """Return the samples of the most accurate methods near one saving, the shipped one first."""
    rows = [one.row for one in measured]
    points = [nearest_point(rows, name, choice.target) for name in methods_of(rows)]
    near = sorted(
        (point for point in points if point is not None),
        key=lambda point: (point != choice.row, point.latent_rel_l2),
    )
    images = {(one.row["method"], one.row["operating_point"]): one for one in measured}
    shown = [(row, images[row.method, row.operating_point]) for row in near[:MOST_STRIPS]]
    shown = [(row, one) for row, one in shown if len(one.images)]
    if not shown:
        return None
    return Strips(target=shown_target(choice.target), strips=tuple(sample_strips(shown)))
