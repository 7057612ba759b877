"""Runs to statistics, and statistics to files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.paper_sweeps.report import LAYOUTS, as_json, points_table, write_sweep
from pipeline.paper_sweeps.run import metrics_of
from pipeline.paper_sweeps.statistics import Sweep, Swept, rotated

numbers = st.floats(-1e6, 1e6)
MACHINE = {"cpu": "a processor", "gpu": None, "cores": 2}


@given(st.integers(1, 7), st.integers(0, 30))
def test_orders_rotate(count, run):
    items = list(range(count))
    assert sorted(rotated(items, run)) == items
    assert {rotated(items, run + later)[0] for later in items} == set(items)


def test_figures_are_the_numbers_of_every_run():
    runs = ({"ms": 1.0, "fid": None, "why": {"cold": 3}}, {"ms": 3.0, "fid": 2.0, "why": {}})
    figures = Swept(setting={}, runs=runs).figures()
    assert list(figures) == ["ms"]
    assert figures["ms"].mean == 2.0


def test_a_point_is_named_by_what_was_set():
    point = Swept(setting={"method": "linear", "layer_fraction": 1 / 3, "skip": None}, runs=())
    assert point.name == "method=linear layer_fraction=0.333"


SETTINGS = {
    "threshold": [
        {"scenario": scenario, "threshold": tau, "reuse_limit": limit}
        for tau in (1.5, 3.0)
        for limit in (2, 6)
        for scenario in ("baseline", "dqar")
    ],
    "warmup": [
        {"method": "baseline", "warmup_fraction": None, "layer_fraction": None},
        {"method": "linear", "warmup_fraction": 0.2, "layer_fraction": 0.5},
    ],
    "ablations": [{"ablation": "baseline"}, {"ablation": "full_dqar"}],
}
SETTINGS |= {"layer-fraction": SETTINGS["warmup"], "direction": SETTINGS["warmup"]}


def some_sweep(kind, num_runs=3):
    layout = LAYOUTS[kind]
    names = {*layout.panels, *layout.columns}
    runs = tuple(dict.fromkeys(names, 1.0 + run) for run in range(num_runs))
    points = [Swept(setting=setting, runs=runs) for setting in SETTINGS[kind]]
    return Sweep(kind=kind, config={"runs": num_runs}, facts={"entropy_max": 3.4}, points=points)


@pytest.mark.parametrize("num_runs", [1, 3])
@pytest.mark.parametrize("kind", list(LAYOUTS))
def test_the_folder_holds_numbers_plot_and_report(kind, num_runs, tmp_path):
    sweep = some_sweep(kind, num_runs)
    write_sweep(sweep, MACHINE, "python jobs/sweep.py", tmp_path / "sweep")
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {
        "sweep.json",
        "sweep.png",
        "report.md",
    }
    found = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert found == json.loads(json.dumps(as_json(sweep, MACHINE, "python jobs/sweep.py")))
    assert [point["setting"] for point in found["points"]] == SETTINGS[kind]
    assert all(len(point["runs"]) == num_runs for point in found["points"])
    assert "a processor" in (tmp_path / "sweep" / "report.md").read_text()


def test_a_figure_that_a_model_lacks_is_a_dash_and_no_line(tmp_path):
    sweep = some_sweep("ablations")
    for point in sweep.points:
        for run in point.runs:
            run.update(fid=None, fid_change=None)
    write_sweep(sweep, MACHINE, "command", tmp_path)
    assert points_table(sweep).splitlines()[-1].count(" - ") == 2


def test_a_rewrite_cut_short_leaves_no_numbers(tmp_path):
    (tmp_path / "sweep.json").write_text("an earlier sweep's")
    (tmp_path / "sweep.png").mkdir()
    with pytest.raises(IsADirectoryError):
        write_sweep(some_sweep("ablations"), MACHINE, "command", tmp_path)
    assert not (tmp_path / "sweep.json").exists()


def test_the_table_shows_mean_and_half_of_the_interval():
    table = points_table(some_sweep("ablations"))
    assert "2 +- 2.5" in table.splitlines()[2]
    assert "+-" not in points_table(some_sweep("ablations", num_runs=1))


def test_every_point_has_the_same_metric_keys():
    point = Swept(setting={}, runs=({"ms": 1.0}, {"ms": 3.0}), facts={"reuse_ratio_dit_xl": 0.1})
    metrics = metrics_of(point)
    assert set(metrics) == {
        "sweep/reuse_ratio_dit_xl",
        *(f"sweep/ms{part}" for part in ("", "_std", "_low", "_high")),
    }
    assert metrics["sweep/ms"] == 2.0
