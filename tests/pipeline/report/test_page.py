"""Web page: figures equal to results.json, nothing from the network, names escaped."""

import json
import re
from html.parser import HTMLParser

import pytest
import torch

from dqar.schedules.static_plan import StaticPlan
from pipeline.report.page import page_of
from pipeline.report.page_tables import COLUMNS
from pipeline.report.render import render
from tests.pipeline.report.made_up_results import STEPS, Point, around, learned, row

MASK = (torch.arange(STEPS) % 2 == 1)[:, None].expand(STEPS, 2)
PLAN = StaticPlan.of_mask(MASK, sites=("attn",))
HOSTILE = '<script>alert("x")</script>'


def points():
    return [
        Point(row=row("baseline", 1.0, around(0.0), operating_point="twin")),
        Point(row=row("interval", 2.1, around(0.031))),
        Point(row=row("interval", 3.2, around(0.07))),
        Point(row=learned(2.0, around(0.0123)), plan=PLAN),
        Point(row=learned(3.0, around(0.0005), calibration_trajectories=7), plan=PLAN),
    ]


def html_of(measured, **arguments):
    return render(page_of(measured, **({"title": "A title", "command": "python x"} | arguments)))


class Tables(HTMLParser):
    """Values of the ``data`` elements of each table, by the text of the row's heading."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.tags = [], set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag == "data":
            self.tables[-1][-1].append(float(dict(attrs)["value"] or "nan"))


def test_every_figure_of_the_table_is_the_one_of_results_json():
    measured = points()
    rows = json.loads(json.dumps([one.row for one in measured]))
    table = Tables(html_of(measured)).tables[-1][1:]
    shown = [name for _, name, _ in COLUMNS if any(row.get(name) is not None for row in rows)]
    assert table == [[row[name] for name in shown if row.get(name) is not None] for row in rows]


def test_equal_flops_are_of_measured_points_where_there_is_one():
    table = Tables(html_of(points())).tables[0][1:]
    learned_errors = table[1]
    assert learned_errors[0] == pytest.approx(0.0005)  # at 2x the point at 3x has less error
    assert learned_errors[-1] == pytest.approx(0.0005)


def test_the_page_needs_no_network_and_no_script():
    html = html_of(points())
    assert {"script", "link", "iframe", "object", "embed"}.isdisjoint(Tables(html).tags)
    assert not re.search(r'(?:href|src)="(?!data:image/png;base64,)', html)
    assert not re.search(r"@import|url\(", html)
    assert set(re.findall(r"https?://[^\"' ]+", html)) == {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme:dark" in html


@pytest.mark.parametrize("column", ["method", "operating_point", "model", "device", "sites"])
def test_names_are_escaped(column):
    value = f"learned-{HOSTILE}" if column == "method" else HOSTILE
    hostile = Point(row=learned(2.0, around(0.01)) | {column: value}, plan=PLAN)
    html = html_of([hostile, *points()], title=HOSTILE, command=HOSTILE, notes=[HOSTILE])
    assert "script" not in Tables(html).tags
    assert "&lt;script&gt;" in html


def test_the_page_holds_each_section():
    html = html_of(points(), results="runs/results", notes=["A note."])
    for heading in ("Error against saving", "Samples", "What was reused", "How it was measured"):
        assert f"<h2>{heading}</h2>" in html
    for text in ("A note.", "paired difference", "python -m pipeline.report runs/results"):
        assert text in html
    assert html.count("data:image/png;base64,") == 4
    assert "--plan runs/results/plans/learned-policy-3-order-0-feedback-0.json" in html


@pytest.mark.parametrize(
    "rows",
    [
        [row("baseline", 1.0, 0.0)],
        [{"method": "interval", "operating_point": "a", "flops_ratio": 2.0, "latent_rel_l2": 0.1}],
        [row("interval", 2.0, float("nan")), row("interval", 3.0, float("inf"))],
        [row("gone-method", 2.0, 0.1), learned(2.0, 0.1)],
        [],
    ],
)
def test_rows_without_most_columns_still_give_a_page(rows):
    html = html_of([Point(row=one, images=Point(row={}).images[:0]) for one in rows])
    assert "How it was measured" in html
    assert "<h2>Samples</h2>" not in html
    assert "<h2>What was reused</h2>" not in html
