"""Heat map of a plan: the action of each gate at each step, as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from dqar.schedules.static_plan import Action, StaticPlan
from pipeline.report.figures import shown_ratio
from pipeline.report.rows import ReportRow
from pipeline.report.svg import add, as_text, figure

LEGEND = {
    Action.COMPUTE: "computed",
    Action.REUSE: "cached value reused",
    Action.FORECAST1: "forecast of order 1",
    Action.FORECAST2: "forecast of order 2",
}
STYLE = """\
.reuse{--a0:#12355b;--a1:#dbe7f2;--a2:#8fc7a6;--a3:#c9702a;--ink:#1b2733;--cut:#fff}
@media (prefers-color-scheme:dark){
.reuse{--a0:#eaf2fb;--a1:#22384e;--a2:#3b8a6c;--a3:#e2954a;--ink:#dfe7ef;--cut:#11161c}}
.reuse text{font-size:12px;fill:var(--ink)}
.reuse .title{font-weight:600;font-size:13px}
.reuse .cut{stroke:var(--cut);stroke-width:1}
.reuse .ground{fill:var(--cut)}
.reuse .a0{fill:var(--a0)}.reuse .a1{fill:var(--a1)}
.reuse .a2{fill:var(--a2)}.reuse .a3{fill:var(--a3)}"""
"""Colours of the actions by :class:`Action`, which differ in lightness, in light and dark."""
TALL, LOW = 26.0, 14.0
"""Height of a map's single row, and of one row of several, in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MapRow:
    """Gates that act alike, drawn as one row."""

    label: str
    actions: tuple[Action, ...]
    """Action at each step."""


def map_rows(plan: StaticPlan) -> list[MapRow]:
    """Return the rows of a plan's map: one if all gates act alike, one a site if all layers do,
    else one for each site and layer."""
    gates = list(zip(*plan.table, strict=True))
    if len(set(gates)) == 1:
        return [MapRow(label="all layers", actions=gates[0])]
    size = plan.num_layers
    by_site = {site: gates[size * i : size * (i + 1)] for i, site in enumerate(plan.sites)}
    if all(len(set(mine)) == 1 for mine in by_site.values()):
        return [MapRow(label=site, actions=mine[0]) for site, mine in by_site.items()]
    return [
        MapRow(label=f"{site} {layer}", actions=actions)
        for site, mine in by_site.items()
        for layer, actions in enumerate(mine)
    ]


def reuse_map_svg(
    plans: Sequence[tuple[ReportRow, StaticPlan]], *, width: float, is_file: bool = False
) -> str:
    """Return the maps of several plans below each other.

    Args:
        plans: operating point and plan of each map.
        width: width in pixels, at which the text has its natural size.
        is_file: True adds a background and a size, for a file that is shown by itself.
    """
    maps = [(point, map_rows(plan)) for point, plan in plans]
    actions = {action for _, rows in maps for row in rows for action in row.actions}
    legend = legend_places(actions, width)
    top = legend[-1][2] + 30.0
    height = top + sum(map_height(rows) for _, rows in maps) - 10.0
    root = figure(width, height, "reuse", "Action of each layer at each sampling step")
    add(root, "style", STYLE)
    if is_file:
        # Without a size of its own, an image element of a web page shows nothing.
        root.set("width", f"{width:g}")
        root.set("height", f"{height:g}")
        add(root, "rect", width=width, height=height, class_="ground")
    _draw_legend(root, legend)
    for point, rows in maps:
        _draw_map(root, point, rows, top, width)
        top += map_height(rows)
    return as_text(root)


def map_height(rows: list[MapRow]) -> float:
    """Return the height of a map with its caption and its axis."""
    return 68.0 + len(rows) * _row_height(rows)


def _row_height(rows: list[MapRow]) -> float:
    return TALL if len(rows) <= 2 else LOW


def legend_places(actions: set[Action], width: float) -> list[tuple[Action, float, float]]:
    """Return the place of each legend entry, in as many lines as the width takes."""
    places, x, y = [], 0.0, 4.0
    for action in sorted(actions):
        size = 32.0 + 6.4 * len(LEGEND[action])
        if x and x + size > width:
            x, y = 0.0, y + 19.0
        places.append((action, x, y))
        x += size
    return places


def _draw_legend(root: Element, places: list[tuple[Action, float, float]]) -> None:
    for action, x, y in places:
        add(root, "rect", x=x, y=y, width=12.0, height=12.0, class_=f"a{int(action)}")
        add(root, "text", LEGEND[action], x=x + 17.0, y=y + 10.0)


def _draw_map(
    root: Element, point: ReportRow, rows: list[MapRow], top: float, width: float
) -> None:
    left, high, steps = 70.0, _row_height(rows), len(rows[0].actions)
    cell, top = (width - left - 2.0) / steps, top + 36.0
    caption = f"{shown_ratio(point.flops_ratio)} fewer FLOPs, {point.method}"
    add(root, "text", caption, x=0.0, y=top - 24.0, class_="title")
    add(root, "text", point.operating_point, x=0.0, y=top - 8.0)
    for index, row in enumerate(rows):
        _draw_row(root, row, left, top + index * high, cell, high - (1.0 if high < TALL else 0.0))
    bottom = top + len(rows) * high
    for step in range(1, steps):
        x = left + step * cell
        add(root, "line", x1=x, x2=x, y1=top, y2=bottom, class_="cut")
    _draw_steps(root, left, cell, bottom, steps)


def _draw_row(
    root: Element, row: MapRow, left: float, top: float, cell: float, height: float
) -> None:
    add(root, "text", row.label, x=0.0, y=top + height / 2 + 4.0)
    x = left
    for action, run in itertools.groupby(row.actions):
        width = len(list(run)) * cell
        add(root, "rect", x=x, y=top, width=width, height=height, class_=f"a{int(action)}")
        x += width


def _draw_steps(root: Element, left: float, cell: float, bottom: float, steps: int) -> None:
    every = next(
        e for e in (1, 2, 5, 10, 20, 50, 100, 200, steps) if e * cell >= 24.0 or e >= steps
    )
    for step in range(0, steps, every):
        x, y = left + (step + 0.5) * cell, bottom + 14.0
        add(root, "text", f"{step}", x=x, y=y, text_anchor="middle")
    add(root, "text", "step", x=0.0, y=bottom + 14.0)
