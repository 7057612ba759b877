"""Two rounds as a user runs them: collect, train, collect near the policy, train on both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.traces.multi_dataset import open_traces

JOBS = Path(__file__).parents[2] / "jobs"
LIMIT_S = 900
COLLECT = ["--model", "digits", "--num-trajectories", "12", "--unit-size", "6", "--workers", "1"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def job(tmp_path):
    """Runs a job that must succeed, in a folder of its own."""

    def run(name, *flags):
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, JOBS / f"{name}.py", *flags],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    return run


def test_two_rounds(job, tmp_path):
    job("collect", *COLLECT, "--out", "first", "--steps", "8", "--forecast-orders", "1")
    job("train", "--traces", "first", "--out", "policy")
    near = ["--exploration", "near-policy", "--explore-around", "policy"]
    job("collect", *COLLECT, "--out", "near", *near)
    again = job("collect", *COLLECT, "--out", "near", *near)
    assert "12 trajectories were committed before" in again
    first, second = (open_traces(str(tmp_path / name)) for name in ("first", "near"))
    assert (second.plan["steps"], second.plan["forecast_orders"]) == (8, [1])
    assert second.manifest["num_layers"] == first.manifest["num_layers"]
    assert len(set(open_traces((tmp_path / "first", tmp_path / "near")).noise_index)) == 8
    job("train", "--traces", "first", "--traces", "near", "--out", "both")
    lineage = json.loads((tmp_path / "both" / "policy.json").read_text())["lineage"]
    assert set(lineage) == {"parent", "collect", "collect-2", "train"}
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for stage in ("collect", "collect-2", "train"):
        assert client.get_run(lineage[stage]).data.tags["mlflow.parentRunId"] == lineage["parent"]
