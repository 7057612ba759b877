"""jobs/sweep.py on tiny settings: its folder, its MLflow runs, and its refusals."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pipeline.tracking import Tracker

JOB = Path(__file__).parents[2] / "jobs" / "sweep.py"
TINY_MODEL = ("--steps", "4", "--num-samples", "2", "--runs", "2")
TINY = {
    "threshold": ("--thresholds", "1.5,5", "--reuse-limits", "2", "--runs", "2"),
    "warmup": ("--warmups", "0.1,1/2", *TINY_MODEL),
    "layer-fraction": ("--layer-fractions", "1/2,1", "--cache-bits", "8", *TINY_MODEL),
    "direction": ("--layer-fractions", "1", "--warmups", "0.1", *TINY_MODEL),
    "ablations": ("--ablations", "baseline,full_dqar", "--entropy-quantile", "1", *TINY_MODEL),
}
SLOW = pytest.mark.slow
POINTS = {"threshold": 6, "warmup": 3, "layer-fraction": 3, "direction": 3, "ablations": 2}


@pytest.fixture
def sweep(run_job):
    """Run the job; return exit code, stdout and stderr."""
    return partial(run_job, "sweep")


@pytest.mark.parametrize(
    "kind", ["threshold", *(pytest.param(kind, marks=SLOW) for kind in TINY if kind != "threshold")]
)
def test_a_sweep_writes_its_folder_and_its_runs(sweep, tmp_path, kind):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sweep.json").write_text("an earlier sweep's, which may be written over")
    code, out, err = sweep(kind, "--out", "out", *TINY[kind])
    assert code == 0, err
    assert "sweep.json" in out
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert found["kind"] == kind
    assert found["command"].startswith(f"python jobs/sweep.py {kind} --out out")
    assert len(found["points"]) == POINTS[kind]
    assert all(len(point["runs"]) == 2 for point in found["points"])
    for name in ("sweep.png", "report.md"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    _check_tracking(tmp_path, kind, found)


def _check_tracking(folder, kind, found):
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", "dqar")
    runs = tracker.client.search_runs([tracker.experiment_id])
    (session,) = [run for run in runs if run.data.tags["stage"] == "sweep"]
    assert session.info.status == "FINISHED"
    assert session.data.tags["kind"] == kind
    logged = session.data.params
    fields = {name.removeprefix("grid.") for name in logged if name.startswith("grid.")}
    assert fields == set(found["config"].get("grid", {}))
    assert "grid" not in logged
    points = [run for run in runs if run.data.tags["stage"] == "point"]
    assert len(points) == POINTS[kind]
    assert {run.data.tags["mlflow.parentRunId"] for run in points} == {session.info.run_id}
    assert len({frozenset(run.data.metrics) for run in points}) == 1
    expected = sorted(point["figures"]["speedup"]["mean"] for point in found["points"])
    assert sorted(run.data.metrics["sweep/speedup"] for run in points) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("magic",), "must be one of threshold, warmup, layer-fraction, direction, ablations"),
        (("threshold", "--thresholds", "low"), "--thresholds must be numbers with commas"),
        (("threshold", "--thresholds", "1/0"), "--thresholds must be numbers with commas"),
        (("threshold", "--thresholds", "nan"), "--thresholds must be numbers with commas"),
        (("threshold", "--thresholds", "inf"), "--thresholds must be above 0 and at most 1000000"),
        (("threshold", "--thresholds", ""), "--thresholds must hold at least one value"),
        (("threshold", "--reuse-limits", "2.5"), "--reuse-limits must be whole numbers"),
        (("threshold", "--reuse-limits", "0"), "--reuse-limits must be from 1 to 1000000"),
        (("threshold", "--runs", "0"), "--runs must be from 1 to 1000"),
        (("threshold", "--steps", "1"), "--steps must be from 2 to 1000"),
        (("threshold", "--model", "digits"), "--model must come with warmup or layer-fraction"),
        (("warmup", "--max-gap", "6"), "--max-gap must come with threshold. Got it with warmup"),
        (("warmup", "--warmups", "2"), "--warmups must be from 0 to 1"),
        (("warmup", "--model", "./nowhere"), "--model must be digits"),
        (("warmup", "--guidance-scale", "nan"), "--guidance-scale must be a number"),
        (("warmup", "--num-samples", "0"), "--num-samples must be from 1"),
        (("warmup", "--steps", "2000"), "--steps must be at most 1000"),
        (("direction", "--layer-fractions", ","), "--layer-fractions must hold at least one value"),
        (("direction", "--cache-bits", "3"), "--cache-bits must be one of 8, 16, 32"),
        (("ablations", "--ablations", "magic"), "--ablations must be among"),
        (("ablations", "--entropy-quantile", "2"), "--entropy-quantile must be from 0 to 1"),
        (("ablations", "--seed", "x"), "--seed must be a whole number"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(sweep, tmp_path, flags, said):
    code, out, err = sweep(*flags, "--out", "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(sweep, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    code, _, err = sweep("threshold", "--out", "taken")
    assert code == 2
    assert "other files" in err
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "thesis.txt"]


def test_a_folder_inside_a_file_is_refused_before_any_work(sweep, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for kind in ("threshold", "warmup"):
        code, out, err = sweep(kind, "--out", "thesis.txt/below")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "thesis.txt in the way" in err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_device_than_the_one_found_is_refused(sweep, monkeypatch):
    for found, wanted in ((True, "cpu"), (False, "cuda")):
        monkeypatch.setattr("torch.cuda.is_available", lambda found=found: found)
        code, _, err = sweep("threshold", "--out", "out", "--device", wanted)
        assert code == 2
        assert f"Got {wanted}" in err


def test_a_relative_out_is_refused_inside_a_ray_job(sweep, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    code, _, err = sweep("threshold", "--out", "out")
    assert code == 2
    assert "--out must be absolute" in err


def test_a_first_argument_is_required(sweep, tmp_path):
    code, out, err = sweep("--out", "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "The first argument must be one of threshold, warmup" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ((), ("threshold ", "warmup ", "layer-fraction ", "direction ", "ablations ")),
        (("threshold",), ("dummy_benchmark_sweep.py", "--dqar-max-gap", "--thresholds")),
        (("warmup",), ("warmup_sweep.py", "--output-dir", "--warmups", "0.1,0.2,0.3")),
        (("layer-fraction",), ("layer_sweep.py", "1/3,0.5")),
        (("direction",), ("--layer-fractions",)),
        (("ablations",), ("evaluate.py --ablations", "--entropy-quantile", "(default: 64)")),
    ],
)
def test_help_names_the_papers_scripts_and_every_flag(kind, words):
    shown = subprocess.run(
        [sys.executable, JOB, *kind, "--help"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0
    text = " ".join(shown.stdout.split())
    assert [word for word in words if word not in text] == []
