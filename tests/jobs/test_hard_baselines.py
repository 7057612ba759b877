"""SmoothCache, routers and DPM-Solver++ through the door, on a cluster of one worker."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.methods.base import COARSE

ROOT = Path(__file__).parents[2]
STEPS = 10
HARD = ("smoothcache", "smoothcache-tied", "router", "fewer-steps-dpmsolver")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder of a small evaluation; beside it the tracking database."""
    out = tmp_path_factory.mktemp("hard") / "results"
    flags = {
        "--model": "digits",
        "--out": out,
        "--sites": "attn,ff",
        "--methods": ",".join(("interval", *HARD)),
        "--sweep-density": "coarse",
        "--num-samples": 4,
        "--batch-size": 4,
        "--steps": STEPS,
        "--workers": 1,
        "--tracking-uri": f"sqlite:///{out}.db",
    }
    words = [str(word) for flag in flags.items() for word in flag]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, ROOT / "jobs" / "evaluate.py", *words],
        cwd=out.parent,
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def rows(results):
    return json.loads((results / "results.json").read_text())


def test_rows_are_like_the_others(rows):
    by_method = {
        name: [row for row in rows if row["method"] == name] for name in ("interval", *HARD)
    }
    for name in ("smoothcache", "smoothcache-tied"):
        assert {row["steps"] for row in by_method[name]} == {STEPS}
        assert min(row["flops_ratio"] for row in by_method[name]) > 1.0
        assert min(row["latent_rel_l2"] for row in by_method[name]) > 0
        ratios = [row["reuse_ratio"] for row in by_method[name]]
        for wanted in COARSE.reuse_ratios:
            assert min(abs(ratio - wanted) for ratio in ratios) <= 1 / STEPS
    routed = by_method["router"]
    assert min(row["reuse_ratio"] for row in routed) > 0
    # Every second step computes, or more.
    papers = [row for row in routed if row["operating_point"].startswith("period=2,")]
    assert 0.4 < max(row["reuse_ratio"] for row in papers) <= 0.5 + 1e-6
    shorter = by_method["fewer-steps-dpmsolver"]
    assert [row["steps"] for row in shorter] == [round(share * STEPS) for share in COARSE.steps]
    assert {row["sampler"] for row in shorter} == {"dpm"}
    assert {row["reuse_ratio"] for row in shorter} == {0.0}
    assert {row["sampler"] for row in by_method["interval"]} == {"ddim"}


def test_the_report_compares_them_and_says_what_the_solver_is(results, rows):
    said = (results / "report.md").read_text()
    assert all(f"| {row['operating_point']} " in said for row in rows)
    assert "the difference between the two solvers" in said
    assert not (results / "_points").exists()


def test_every_point_is_a_run_with_the_same_keys(results, rows):
    client = MlflowClient(f"sqlite:///{results}.db")
    experiment = client.get_experiment_by_name("dqar")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    points = {run.info.run_name: run.data for run in runs}
    keys = {"eval/reuse_ratio", "eval/flops_ratio", "eval/latent_rel_l2"}
    for row in rows:
        data = points[f"{row['method']} {row['operating_point']}"]
        assert keys <= set(data.metrics)
        assert data.metrics["eval/flops_ratio"] == pytest.approx(row["flops_ratio"])
        assert data.params["sampler"] == row["sampler"]
