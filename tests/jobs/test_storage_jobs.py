"""The three stages through an object store, as a user starts them; two drivers at once."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.storage.object_store import open_storage
from pipeline.traces import read_gates, read_trajectories
from pipeline.traces.multi_dataset import open_traces

JOBS = Path(__file__).parents[2] / "jobs"
LIMIT_S = 600
COLLECT = {
    "--model": "digits",
    "--num-trajectories": 24,
    "--unit-size": 6,
    "--steps": 6,
    "--workers": 1,
    "--exploration": "paced",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def start(job, folder, flags):
    words = [str(word) for flag in flags.items() for word in flag]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, JOBS / f"{job}.py", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(job, folder, flags):
    process = start(job, folder, flags)
    out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, err


def test_collect_train_evaluate_through_an_object_store(s3, tmp_path):
    flags = COLLECT | {"--out": f"{s3}/runs/traces"}
    traces = open_storage(f"{s3}/runs/traces")
    first = start("collect", tmp_path, flags)
    deadline = time.monotonic() + LIMIT_S
    while not traces.sizes("_lease"):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    code, out, err = run("collect", tmp_path, flags)
    assert code == 2
    assert [line.startswith("collect: model digits") for line in out.splitlines()] == [True]
    assert f"Got a second while process {first.pid} on" in err
    assert err.count("\n") == 1
    out, err = first.communicate(timeout=LIMIT_S)
    assert first.returncode == 0, out[-2000:] + err[-3000:]

    manifest = open_traces(traces).manifest
    assert len(manifest["parts"]) == 1
    assert read_trajectories(traces).num_rows == 24
    assert read_gates(traces).num_rows == 24 * 6 * 8
    code, out, err = run("collect", tmp_path, flags)
    assert code == 0, err[-3000:]
    assert "24 trajectories were committed before" in out
    assert open_traces(traces).manifest == manifest

    policy = f"{s3}/runs/policy"
    code, out, err = run("train", tmp_path, {"--traces": f"{s3}/runs/traces", "--out": policy})
    assert code == 0, err[-3000:]
    spec = json.loads(open_storage(policy).read("policy.json") or b"")
    assert spec["trace_digest"] == manifest["data_digest"]

    results = f"{s3}/runs/results"
    asked = {"--model": "digits", "--policy": policy, "--out": results, "--workers": 1}
    small = {
        "--methods": "baseline,interval,learned",
        "--num-samples": 4,
        "--sweep-density": "coarse",
    }
    code, out, err = run("evaluate", tmp_path, asked | small)
    assert code == 0, err[-3000:]
    rows = json.loads(open_storage(results).read("results.json") or b"")
    assert {"baseline", "interval", "learned"} <= {row["method"] for row in rows}
    assert open_storage(results).read("report.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlartifacts", "mlflow.db"]
