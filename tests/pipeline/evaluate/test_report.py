"""Results folder: its files, unchanged rows, and tables without extrapolation."""

import json

import numpy as np
import pytest

from pipeline.evaluate.report import comparison_table, points_table, write_report
from pipeline.evaluate.worker import PointResult


def measured(method, reuse, error, flops=1.0):
    row = {
        "method": method,
        "operating_point": f"at {reuse}",
        "reuse_ratio": reuse,
        "flops_ratio": flops,
        "speedup": 1.0,
        "speedup_bound": None,
        "latent_rel_l2": error,
        "psnr": 30.0,
        "ssim": 0.9,
        "fid": None,
    }
    images = np.zeros((4, 8, 8, 1), dtype=np.float32)
    return PointResult(row=row, images=images, reference_images=images)


@pytest.fixture
def points():
    return [
        measured("baseline", 0.0, 0.0),
        measured("interval", 0.4, 0.01),
        measured("interval", 0.6, 0.04),
        measured("learned", 0.45, 0.005),
    ]


def test_the_folder_holds_rows_plots_and_report(points, tmp_path):
    write_report(points, tmp_path / "results", "title")
    found = {path.name for path in (tmp_path / "results").iterdir()}
    names = {"results.json", "report.md", "report.html", "evaluation.json", "points.json"}
    assert found == names | {"frontier.png", "samples.png"}
    assert json.loads((tmp_path / "results" / "results.json").read_text()) == [
        point.row for point in points
    ]
    assert (tmp_path / "results" / "report.md").read_text().startswith("# title\n")


def test_a_solvers_own_path_is_said(points, tmp_path):
    solver = measured("fewer-steps-dpmsolver", 0.0, 0.02, flops=2.0)
    for rows, is_said in ((points, False), ([*points, solver], True)):
        write_report(rows, tmp_path, "title")
        said = (tmp_path / "report.md").read_text()
        assert ("the difference between the two solvers" in said) == is_said


def test_a_baseline_alone_is_a_report(tmp_path):
    write_report([measured("baseline", 0.0, 0.0)], tmp_path, "alone")
    assert (tmp_path / "results.json").exists()


def test_a_rewrite_cut_short_leaves_no_rows(points, tmp_path):
    write_report(points, tmp_path, "title")
    (tmp_path / "samples.png").unlink()
    (tmp_path / "samples.png").mkdir()
    with pytest.raises(IsADirectoryError):
        write_report(points, tmp_path, "title")
    assert not (tmp_path / "results.json").exists()


def test_comparison_interpolates_and_leaves_dashes(points):
    lines = comparison_table([point.row for point in points]).splitlines()
    assert "reuse 0.5" in lines[0]
    assert "baseline" not in "".join(lines)
    assert "0.0200" in next(line for line in lines if "interval" in line)
    assert "-" in next(line for line in lines if "learned" in line)


def test_missing_figures_are_dashes(points):
    table = points_table([points[0].row])
    assert table.splitlines()[-1].rstrip(" |").endswith("-")
