"""Demonstration from end to end: the jobs succeed, files are left, processes are not."""

import json
import os
import shutil
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
