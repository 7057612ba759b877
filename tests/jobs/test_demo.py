"""Demonstration from end to end: the jobs succeed, files are left, processes are not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from pipeline.traces import read_trajectories

JOB = Path(__file__).parents[2] / "jobs" / "demo.py"


@pytest.fixture
def scratch():
    """A short temporary folder: Ray's sockets have long names and a limit of 107 bytes."""
    folder = tempfile.mkdtemp(prefix="d")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def processes_about(*places: str) -> list[str]:
    """Command lines that mention one of the places."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if any(place in line for place in places):
            found.append(line)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demonstration_works_and_leaves_no_process(tmp_path, scratch):
    out = tmp_path / "demo"
    flags = ["--num-trajectories", "24", "--num-samples", "4", "--steps", "10"]
    ended = subprocess.run(
        [sys.executable, JOB, "--out", out, *flags],
        env=os.environ | {"TMPDIR": scratch},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    rows = json.loads((out / "results" / "results.json").read_text())
    assert {"baseline", "interval", "learned"} <= {row["method"] for row in rows}
    assert read_trajectories(str(out / "traces")).num_rows == 24
    for name in ("mlflow.db", "policy/policy.json", "results/frontier.png", "results/report.md"):
        assert (out / name).stat().st_size > 0
    deadline = time.monotonic() + 30
    while (left := processes_about(str(out), scratch)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
    assert not list(Path(scratch).glob("dqar-*"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--port", "70000"), "port must be from 0 to 65535. Got 70000"),
        (("--port", "-1"), "port must be from 0 to 65535. Got -1"),
        (("--num-trajectories", "3"), "num_trajectories must be from 4 to"),
        (("--steps", "1001"), "steps must be from 2 to 1000"),
        (("--num-samples", "0"), "num_samples must be from 1 to"),
        (("--out", "file"), "it is a file"),
        (("--out", "file", "--ui"), "it is a file"),
        (("--out", "logged"), "logs in the way: it is a file"),
        (("--out", "nowhere", "--ui"), "which has no mlflow.db"),
    ],
)
def test_bad_input_is_refused_before_a_server_starts(refused, tmp_path, flags, said):
    (tmp_path / "file").touch()
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / "logs").touch()
    assert said in refused("demo", *flags)


def test_a_relative_out_is_refused_inside_a_ray_job(refused, monkeypatch):
    # The fixture that runs jobs removes the variable first.
    monkeypatch.setattr("pipeline.storage.output_checks.inside_ray_job", lambda: True)
    assert "--out must be absolute inside a Ray job" in refused("demo", "--out", "runs")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_servers_end_with_the_demonstration(tmp_path, scratch, number):
    out = tmp_path / "demo"
    out.mkdir()
    (out / "mlflow.db").touch()
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(
            [sys.executable, JOB, "--out", out, "--ui", "--port", "0"],
            env=os.environ | {"TMPDIR": scratch},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 200
    while b"MLflow UI at" not in (tmp_path / "log").read_bytes():
        assert job.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(processes_about(str(out))) > 1
    job.send_signal(number)
    expected = {signal.SIGTERM: 143, signal.SIGKILL: -9, signal.SIGINT: 0}
    assert job.wait(timeout=60) == expected[number]
    await_no_process(str(out), scratch)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ray_ends_with_the_demonstration(tmp_path, scratch, number):
    out = tmp_path / "demo"
    job = subprocess.Popen(
        [sys.executable, JOB, "--out", out],
        env=os.environ | {"TMPDIR": scratch},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not any("raylet" in line for line in processes_about(scratch)):
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.5)
    time.sleep(5)
    job.send_signal(number)
    job.wait(timeout=90)
    await_no_process(str(out), scratch)


def await_no_process(*places: str) -> None:
    deadline = time.monotonic() + 60
    while (left := processes_about(*places)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
