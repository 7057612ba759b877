"""Frontier figure: error against FLOPs ratio, a line for each method, with 95% intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from pipeline.report.choice import Choice
from pipeline.report.decision_text import point_text
from pipeline.report.frontier import frontier_rows
from pipeline.report.frontier_axes import Axes, draw_axes
from pipeline.report.rows import ReportRow, methods_of, role_of
from pipeline.report.svg import add, as_text, figure

COLORS = 8
"""Number of colours in the page's style; more methods take them again with another dash."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""Dash patterns of the lines; learned methods have unbroken lines."""
LINE_HEIGHT = 16.0
"""Least distance of two labels in pixels."""
LETTER = 7.0
"""Width of a letter of a label in pixels, at most."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodLine:
    """Points of one method, and its style."""

    name: str
    edge: list[ReportRow]
    """Points of the method's frontier, from the smallest saving on."""
    others: list[ReportRow]
    """Points that another point of the method beats in saving and error."""
    color: int
    dash: str
    is_learned: bool


def method_lines(rows: Rows) -> list[MethodLine]:
    """Return the lines of all methods, learned methods first."""
    names = sorted(methods_of(rows), key=lambda name: role_of(name) != "subject")
    lines = [_line(rows, name, index) for index, name in enumerate(names)]
    return [line for line in lines if line.edge]


def _line(rows: Rows, name: str, index: int) -> MethodLine:
    pairs = frontier_rows(rows, name, "flops_ratio")
    edge = [ReportRow.of(row) for saved, row in pairs if row["flops_ratio"] == saved]
    mine = [ReportRow.of(row) for row in rows if row["method"] == name]
    is_learned = role_of(name) == "subject"
    return MethodLine(
        name=name,
        edge=[point for point in edge if math.isfinite(point.latent_rel_l2)],
        others=[row for row in mine if row not in edge and 0 < row.latent_rel_l2 < math.inf],
        color=index % COLORS,
        dash="" if is_learned else DASHES[index % len(DASHES)],
        is_learned=is_learned,
    )


def frontier_svg(rows: Rows, choices: tuple[Choice, ...], *, width: float, height: float) -> str:
    """Return the figure; empty if no method has an error above 0.

    Args:
        rows: rows of results.json.
        choices: the points to ship, which are ringed.
        width: width in pixels, at which the text has its natural size.
        height: height in pixels.
    """
    lines = method_lines(rows)
    points = [point for line in lines for point in line.edge + line.others]
    if not points:
        return ""
    label = 22.0 + LETTER * max(len(line.name) for line in lines)
    has_room = label < width / 3
    axes = Axes.around(points, width=width, height=height, margin=label if has_room else 12.0)
    legend = 0.0 if has_room else legend_rows(len(lines), label, width) * LINE_HEIGHT + 12.0
    root = figure(width, height + legend, "frontier", "Error of each method against its saving")
    draw_axes(root, axes)
    for line in reversed(lines):  # learned methods are drawn above all others
        _draw_line(root, axes, line)
    for choice in choices:
        if choice.row is not None:
            x, y = axes.x(choice.row.flops_ratio), axes.y(choice.row.latent_rel_l2)
            add(root, "circle", cx=x, cy=y, r=9.0, class_="shipped")
    if has_room:
        _draw_labels(root, axes, lines)
    else:
        _draw_legend(root, lines, label, height, width)
    return as_text(root)


def _draw_line(root: Element, axes: Axes, line: MethodLine) -> None:
    weight = "learned" if line.is_learned else "other"
    group = add(root, "g", class_=f"line c{line.color} {weight}")
    places = [(axes.x(point.flops_ratio), axes.y(point.latent_rel_l2)) for point in line.edge]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    add(group, "polyline", points=path, stroke_dasharray=line.dash or "none")
    for point in line.others:
        x, y = axes.x(point.flops_ratio), axes.y(point.latent_rel_l2)
        add(group, "circle", cx=x, cy=y, r=1.8, class_="beaten")
    for point, (x, y) in zip(line.edge, places, strict=True):
        if point.latent_rel_l2_ci95:
            low, high = point.latent_rel_l2_ci95
            add(group, "line", x1=x, x2=x, y1=axes.y(low), y2=axes.y(high), class_="interval")
        add(group, "path", d=_marker(line.color, x, y), class_="point").append(_tooltip(point))


def _tooltip(point: ReportRow) -> Element:
    title = Element("title")
    title.text = f"{point.name}: {point_text(point)}"
    return title


def _marker(kind: int, x: float, y: float) -> str:
    """Return the outline of a square, a triangle, a diamond or a circle, by the colour's number."""
    r = 3.6
    outlines = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z",
        f"M{x:.1f} {y - 4:.1f}l4 7h-8z",
        f"M{x:.1f} {y - 4.5:.1f}l4.5 4.5l-4.5 4.5l-4.5 -4.5z",
    )
    return outlines[kind % len(outlines)]


def _draw_labels(root: Element, axes: Axes, lines: list[MethodLine]) -> None:
    """Draw the name of each method right of the plot, linked to the end of its line."""
    ends = [
        (axes.x(line.edge[-1].flops_ratio), axes.y(line.edge[-1].latent_rel_l2)) for line in lines
    ]
    order = sorted(range(len(lines)), key=lambda index: ends[index][1])
    places = spread_out([ends[index][1] for index in order], LINE_HEIGHT, axes.top, axes.bottom)
    for index, place in zip(order, places, strict=True):
        line, (x, y) = lines[index], ends[index]
        weight = "learned" if line.is_learned else "other"
        group = add(root, "g", class_=f"label c{line.color} {weight}")
        route = f"{x + 5:.1f},{y:.1f} {axes.right:.1f},{place:.1f} {axes.right + 7:.1f},{place:.1f}"
        add(group, "polyline", points=route)
        add(group, "text", line.name, x=axes.right + 10.0, y=place + 4.0)


def legend_rows(count: int, label: float, width: float) -> int:
    """Return the number of rows of a legend below the plot."""
    columns = max(1, int(width // (label + 14.0)))
    return -(-count // columns)


def _draw_legend(
    root: Element, lines: list[MethodLine], label: float, top: float, width: float
) -> None:
    """Draw the names of the methods below the plot, where it leaves no room for them beside it."""
    count = legend_rows(len(lines), label, width)
    for index, line in enumerate(lines):
        x, y = (index // count) * (label + 14.0) + 6.0, top + 8.0 + LINE_HEIGHT * (index % count)
        weight = "learned" if line.is_learned else "other"
        group = add(root, "g", class_=f"line label c{line.color} {weight}")
        dash = line.dash or "none"
        add(group, "polyline", points=f"{x},{y} {x + 22},{y}", stroke_dasharray=dash)
        add(group, "path", d=_marker(line.color, x + 11.0, y), class_="point")
        add(group, "text", line.name, x=x + 28.0, y=y + 4.0)


def spread_out(wanted: list[float], apart: float, low: float, high: float) -> list[float]:
    """Return places in the order of those wanted, moved apart by at least ``apart``.

    Args:
        wanted: places in growing order.
        low: smallest place, as far as there is room.
        high: largest place; more places than there is room for start above ``low``.
    """
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + apart if places else low))
    limit = high
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - apart
    return places
