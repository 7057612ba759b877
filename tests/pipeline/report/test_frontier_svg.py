"""Frontier figure: well-formed, every operating point in it, labels that do not overlap."""

import itertools
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.decision import decide
from pipeline.report.frontier_axes import error_ticks, flops_ticks
from pipeline.report.frontier_svg import frontier_svg, spread_out
from tests.pipeline.report.made_up_results import learned, row

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [
    row("baseline", 1.0, 0.0),
    learned(2.0, 0.01, latent_rel_l2_ci95=[0.0, 0.02]),
    learned(3.0, 0.02),
    row("interval", 2.0, 0.03),
    row("interval", 1.5, 0.04),
]


def drawn(rows, width):
    svg = frontier_svg(rows, decide(rows).choices, width=width, height=400.0)
    return ElementTree.fromstring(svg)


@pytest.mark.parametrize("width", [940.0, 340.0])
def test_every_point_is_drawn_and_every_method_named(width):
    figure = drawn(ROWS, width)
    # One of the interval's points is beaten by its other, which saves more with a smaller error.
    assert len(figure.findall(f".//{SVG}title")) == 1 + 3
    assert len(figure.findall(f".//{SVG}circle[@class='beaten']")) == 1
    assert len(figure.findall(f".//{SVG}circle[@class='shipped']")) == 2
    assert len(figure.findall(f".//{SVG}line[@class='interval']")) == 1
    texts = [text.text for text in figure.iter(f"{SVG}text")]
    assert {"learned", "interval"} <= set(texts)
    assert "baseline" not in texts


def test_a_saving_and_an_error_lie_where_the_axes_say():
    points = [learned(2.0, 0.01), learned(3.0, 0.04)]
    line = drawn(points, 940.0).find(f".//{SVG}g[@class='line c0 learned']/{SVG}polyline")
    assert line is not None
    left, right = (tuple(map(float, place.split(","))) for place in line.attrib["points"].split())
    assert left[0] < right[0]
    assert left[1] > right[1]


def test_names_are_escaped():
    figure = drawn([row("learned-<script>", 2.0, 0.01)], 940.0)
    assert "learned-<script>" in [text.text for text in figure.iter(f"{SVG}text")]


@pytest.mark.parametrize(
    "rows", [[], [row("baseline", 1.0, 0.0)], [row("interval", 2.0, float("nan"))]]
)
def test_nothing_to_draw_is_no_figure(rows):
    assert frontier_svg(rows, (), width=940.0, height=400.0) == ""


def test_infinite_errors_and_intervals_stay_within_the_figure():
    rows = [row("interval", 2.0, 0.1, latent_rel_l2_ci95=[0.0, float("inf")])]
    figure = drawn([*rows, row("interval", 3.0, float("inf"))], 940.0)
    bar = figure.find(f".//{SVG}line[@class='interval']")
    assert bar is not None
    assert all(0 <= float(bar.attrib[name]) <= 400 for name in ("y1", "y2"))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 400), max_size=12))
def test_labels_keep_their_order_and_distance(wanted):
    places = spread_out(sorted(wanted), 16.0, 10.0, 400.0)
    assert all(b - a >= 16.0 - 1e-9 for a, b in itertools.pairwise(places))
    assert all(10.0 - 1e-9 <= place <= 400.0 + 1e-9 for place in places)


def test_ticks_are_round():
    assert flops_ticks(4.6) == [1, 2, 3, 4]
    assert error_ticks(0.0009, 0.03) == [0.001, 0.002, 0.005, 0.01, 0.02]
    assert error_ticks(1e-6, 0.5) == [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1]
