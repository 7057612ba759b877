"""`ray job submit` against a head that asks for a token: packing, exit codes, stop and resume."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from pipeline.demo.local_servers import ray_and_mlflow
from pipeline.traces import read_gates, read_trajectories
from pipeline.traces.multi_dataset import open_traces
from tests.jobs.paused_job import paused_job

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TRAJECTORIES, STEPS = 60, 20
PLAN = [
    *("--model", "digits", "--steps", str(STEPS), "--unit-size", "6", "--workers", "2"),
    *("--num-trajectories", str(TRAJECTORIES)),
]
RECEIPTS = "_receipts/[!_]*.json"
LIMIT_S = 400

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head and an MLflow server of this module's own; gives the environment that reaches both."""
    with pytest.MonkeyPatch.context() as patch:
        # Entrypoints say `python`, as on a cluster.
        patch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
        for name in ("RAY_AUTH_MODE", "RAY_ADDRESS", "PYTHONPATH"):
            patch.delenv(name, raising=False)
        with ray_and_mlflow(tmp_path_factory.mktemp("cluster")) as environment:
            yield environment


def call(environment, *command):
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.fixture
def submit(cluster):
    """Submits a job by the command of docs/cluster.md."""
    packing = ["--working-dir", ".", "--runtime-env", "runtime_env.yaml"]
    return partial(call, cluster, BIN / "ray", "job", "submit", *packing)


@pytest.fixture
def collect(submit, cluster):
    """Submits the collection of this file."""

    def run(out, *flags, job=("jobs/collect.py",)):
        uri = cluster["MLFLOW_TRACKING_URI"]
        entry = ["python", *job, "--out", str(out), "--tracking-uri", uri, *PLAN]
        return submit(*flags, "--", *entry)

    return run


def job_info(environment, submission_id):
    """What the Jobs API knows of a job."""
    request = urllib.request.Request(
        f"{environment['RAY_API_SERVER_ADDRESS']}/api/jobs/{submission_id}",
        headers={"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def receipts(out):
    return list(out.glob(RECEIPTS))


def await_true(is_so):
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stopped_collection_is_resumed_by_another_submission(collect, cluster, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    done = collect(whole)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # It holds still after two units, however long the stop takes to arrive.
    held = paused_job("collect", ".", out / RECEIPTS, 2, tmp_path / "never")
    assert collect(out, "--no-wait", "--submission-id", "first", job=held).returncode == 0
    await_true(lambda: len(receipts(out)) >= 2)
    stopped = call(cluster, BIN / "ray", "job", "stop", "first")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert job_info(cluster, "first")["status"] == "STOPPED"
    kept = {path: path.stat().st_mtime_ns for path in receipts(out)}
    assert 2 <= len(kept) < TRAJECTORIES // 6
    # A submission id is taken for good: that keeps a job from being submitted twice.
    assert collect(out, "--submission-id", "first").returncode != 0
    resumed = collect(out, "--submission-id", "second")
    assert resumed.returncode == 0, resumed.stdout[-3000:] + resumed.stderr[-3000:]
    assert "were committed before" in resumed.stdout
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    ids = read_trajectories(str(out))["trajectory_id"].to_pylist()
    assert len(ids) == len(set(ids)) == TRAJECTORIES
    assert read_gates(str(out), ["trajectory_id"]).num_rows == TRAJECTORIES * STEPS * 8
    digests = [open_traces(str(path)).manifest["decision_digest"] for path in (whole, out)]
    assert digests[0] == digests[1]


def test_bad_input_is_told_and_its_exit_code_is_kept(submit, cluster):
    """The command line gives 1 for every failure; the job keeps the code that it ended with."""
    entry = ["python", "jobs/collect.py", "--model", "./nowhere", "--out", "/tmp/nowhere"]
    uri = ["--tracking-uri", cluster["MLFLOW_TRACKING_URI"]]
    refused = submit("--submission-id", "bad-input", "--", *entry, *uri)
    assert refused.returncode == 1
    assert "--model must be" in refused.stdout + refused.stderr
    info = job_info(cluster, "bad-input")
    assert (info["status"], info["driver_exit_code"]) == ("FAILED", 2)


def test_without_the_token_nothing_is_run(submit, cluster):
    stranger = {name: text for name, text in cluster.items() if name != "RAY_AUTH_TOKEN"}
    command = [BIN / "ray", "job", "submit", "--", "python", "-c", "print('ran')"]
    for environment in (
        stranger | {"RAY_AUTH_MODE": "disabled"},
        stranger | {"RAY_AUTH_TOKEN": "0" * 64},
    ):
        refused = call(environment, *command)
        assert refused.returncode != 0
        assert "token" in refused.stdout + refused.stderr
        assert "ran\n" not in refused.stdout
        assert cluster["RAY_AUTH_TOKEN"] not in refused.stdout + refused.stderr


def test_the_doctor_submits_itself_and_brings_its_exit_code_back(cluster, tmp_path):
    out = f"--out={tmp_path}/traces"
    doctor = [sys.executable, "jobs/doctor.py", "--model=digits", "--timeout-s=60"]
    # For the client alone: the job finds the project in what was uploaded.
    client = cluster | {"PYTHONPATH": str(ROOT)}
    well = call(client, *doctor, out, f"--tracking-uri={cluster['MLFLOW_TRACKING_URI']}")
    shown = well.stdout + well.stderr
    for name in ("client versions", "worker versions", "auth", "storage", "mlflow", "model"):
        assert f"ok    {name}" in shown, shown
    assert well.returncode == (1 if "FAIL" in shown else 0)
    assert cluster["RAY_AUTH_TOKEN"] not in shown
    ill = call(client, *doctor[:-1], "--accelerator-type=A100", "--timeout-s=2")
    assert ill.returncode == 1
    assert "FAIL  accelerator" in ill.stdout
    bad = call(client, *doctor, "--out=relative")
    assert bad.returncode == 1
    assert "--out must be absolute inside a Ray job" in bad.stdout
