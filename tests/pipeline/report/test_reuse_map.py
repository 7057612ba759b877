"""Heat map of a plan: rows that act alike are one, and every step has its action's colour."""

from xml.etree import ElementTree

import pytest
import torch

from dqar.schedules.static_plan import Action, StaticPlan
from pipeline.report.reuse_map import legend_places, map_rows, reuse_map_svg
from pipeline.report.rows import ReportRow
from tests.pipeline.report.made_up_results import learned

SVG = "{http://www.w3.org/2000/svg}"
POINT = ReportRow.of(learned(2.0, 0.01, method="learned-<b>"))
STEPS = torch.tensor([False, True, False, True, False, True])


def plan(mask, order=0):
    return StaticPlan.of_mask(mask, sites=("attn", "ff"), forecast_order=order)


def by_site():
    return torch.stack([STEPS, STEPS, ~STEPS & (torch.arange(6) > 0), STEPS.roll(0) & False], 1)


@pytest.mark.parametrize(
    ("mask", "labels"),
    [
        (STEPS[:, None].expand(6, 4), ["all layers"]),
        (torch.stack([STEPS, STEPS, STEPS & False, STEPS & False], 1), ["attn", "ff"]),
        (by_site(), ["attn 0", "attn 1", "ff 0", "ff 1"]),
    ],
)
def test_gates_that_act_alike_share_a_row(mask, labels):
    rows = map_rows(plan(mask))
    assert [row.label for row in rows] == labels
    assert all(len(row.actions) == 6 for row in rows)


def test_every_step_is_drawn_with_its_action():
    drawn = plan(STEPS[:, None].expand(6, 4), order=1)
    root = ElementTree.fromstring(reuse_map_svg([(POINT, drawn)], width=600.0))
    rects = [one for one in root.iter(f"{SVG}rect") if one.attrib["class"].startswith("a")]
    steps = [
        one for one in rects if float(one.attrib["x"]) >= 70.0 and one.attrib["height"] == "26"
    ]
    # One computation before step 1 allows no forecast; two before step 3 allow the first order.
    kinds = [Action.COMPUTE, Action.REUSE, Action.COMPUTE, Action.FORECAST1, Action.COMPUTE]
    assert [one.attrib["class"] for one in steps] == [
        f"a{int(k)}" for k in [*kinds, Action.FORECAST1]
    ]
    assert sum(float(one.attrib["width"]) for one in steps) == pytest.approx(600.0 - 72.0, abs=0.1)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "2.00x fewer FLOPs, learned-<b>" in texts
    assert "forecast of order 1" in texts
    assert "forecast of order 2" not in texts


def test_a_file_has_a_ground_and_a_figure_of_the_page_none():
    one = [(POINT, plan(STEPS[:, None].expand(6, 4)))]
    assert 'class="ground"' in reuse_map_svg(one, width=600.0, is_file=True)
    assert 'class="ground"' not in reuse_map_svg(one, width=600.0)


def test_a_narrow_legend_takes_more_lines():
    assert len({y for _, _, y in legend_places(set(Action), 900.0)}) == 1
    places = legend_places(set(Action), 340.0)
    assert len({y for _, _, y in places}) > 1
    assert len(places) == 4
