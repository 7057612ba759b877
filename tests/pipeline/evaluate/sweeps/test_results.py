"""Figures of a point over its runs, and its name."""

from pipeline.evaluate.sweeps.results import Swept


def test_figures_are_the_numbers_of_every_run():
    runs = ({"ms": 1.0, "fid": None, "why": {"cold": 3}}, {"ms": 3.0, "fid": 2.0, "why": {}})
    figures = Swept(setting={}, runs=runs).figures()
    assert list(figures) == ["ms"]
    assert figures["ms"].mean == 2.0


def test_a_point_is_named_by_what_was_set():
    point = Swept(setting={"method": "linear", "layer_fraction": 1 / 3, "skip": None}, runs=())
    assert point.name == "method=linear layer_fraction=0.333"
