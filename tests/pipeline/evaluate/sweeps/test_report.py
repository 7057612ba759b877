"""The folder of a sweep: numbers, plot and table."""

import json

import pytest

from pipeline.evaluate.sweeps.report import LAYOUTS, as_json, points_table, write_sweep
from pipeline.evaluate.sweeps.results import Sweep, Swept

MACHINE = {"cpu": "a processor", "gpu": None, "cores": 2}


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
