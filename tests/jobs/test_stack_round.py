"""A round of the site ``stack`` as a user runs it: collect, train, evaluate, sample."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dqar.schedules.serialization import load_plan
from pipeline.traces import read_gates
from pipeline.traces.multi_dataset import open_traces

JOBS = Path(__file__).parents[2] / "jobs"
LIMIT_S = 900
STEPS, TRAJECTORIES = 8, 12

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Runs a job that must succeed, in a folder of its own."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(name, *flags):
        done = subprocess.run(
            [sys.executable, JOBS / f"{name}.py", *map(str, flags)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    return run


def test_round_of_a_stack(job, tmp_path):
    model = ("--model", "digits")
    count = ("--num-trajectories", TRAJECTORIES, "--unit-size", 6, "--workers", 1)
    job("collect", *model, *count, "--out", "traces", "--steps", STEPS, "--sites", "stack")
    traces = open_traces(str(tmp_path / "traces"))
    assert traces.plan["sites"] == ["stack"]
    table = read_gates(str(tmp_path / "traces"))
    rows = set(zip(*(table[name].to_pylist() for name in ("trajectory_id", "step")), strict=True))
    assert len(rows) == table.num_rows == TRAJECTORIES * STEPS
    assert set(table["site"].to_pylist()) == {"stack"}

    job("train", "--traces", "traces", "--out", "policy")
    evaluated = ("--num-samples", 4, "--sweep-density", "coarse", "--workers", 1)
    methods = ("--methods", "baseline,interval,interval-forecast1,learned")
    job("evaluate", *model, "--policy", "policy", *methods, *evaluated, "--out", "results")
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert {row["sites"] for row in results} == {"stack"}
    learned = [row for row in results if row["method"] == "learned"]
    assert all(row["flops_ratio"] > 1 for row in learned)
    plans = sorted((tmp_path / "results" / "plans").glob("*.json"))
    assert len(plans) == len(learned)
    for plan in map(load_plan, plans):
        assert (plan.sites, plan.num_layers, plan.mask.shape) == (("stack",), 8, (STEPS, 1))
    assert (tmp_path / "results" / "report.html").exists()

    for how in (("--policy", "policy"), ("--plan", plans[0])):
        job("sample", *model, *how, "--num-samples", 2, "--out", "samples")
        account = json.loads((tmp_path / "samples" / "sample.json").read_text())
        assert account["config"]["dqar"]["sites"] == ["stack"]
        assert account["reuse"]["gates"] == 2 * STEPS
        assert account["reuse"]["reused"] > 0
        assert max(account["latent_rel_l2"]) < 1
