"""Kill -9 in the middle of a collection: what was planned is collected, and once.

The driver that is disturbed holds still when a few units are done, so that no machine is too fast.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.traces import read_gates, read_trajectories
from pipeline.traces.multi_dataset import open_traces
from tests.jobs.paused_job import paused_job

ROOT = Path(__file__).parents[2]
TRAJECTORIES, STEPS = 60, 20
RECEIPTS = "_receipts/[!_]*.json"
LIMIT_S = 400

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def start(out: Path, hold_at: int = TRAJECTORIES) -> subprocess.Popen:
    """The collection of this file, in a process group of its own. It holds still when so many
    units are done, until :func:`gate_of` is there; by default never."""
    flags = {
        "--model": "digits",
        "--out": str(out),
        "--num-trajectories": TRAJECTORIES,
        "--steps": STEPS,
        "--unit-size": 6,
        "--workers": 2,
        "--tracking-uri": f"sqlite:///{out.parent}/{out.name}.db",
    }
    words = [str(word) for flag in flags.items() for word in flag]
    job = paused_job("collect", ROOT, out / RECEIPTS, hold_at, gate_of(out))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *job, *words],
            cwd=out.parent,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def gate_of(out: Path) -> Path:
    return out.parent / f"{out.name}.go"


def finish(process: subprocess.Popen, out: Path) -> None:
    code = process.wait(timeout=LIMIT_S)
    assert code == 0, (out.parent / f"{out.name}.log").read_text()[-3000:]


def receipts(out: Path) -> list[Path]:
    return list(out.glob(RECEIPTS))


def await_receipts(process: subprocess.Popen, out: Path, count: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while len(receipts(out)) < count:
        assert process.poll() is None, (out.parent / f"{out.name}.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def collectors_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Ray worker processes of this run alone."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if any("ray::Collector" in word for word in child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def end_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=30)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> str:
    """Decision digest of a run that nobody killed."""
    out = tmp_path_factory.mktemp("undisturbed") / "traces"
    finish(start(out), out)
    assert_whole(out)
    return open_traces(str(out)).manifest["decision_digest"]


def assert_whole(out: Path) -> None:
    """Every planned trajectory is there once, with all its gates."""
    ids = read_trajectories(str(out))["trajectory_id"].to_pylist()
    assert len(ids) == len(set(ids)) == TRAJECTORIES
    owners = read_gates(str(out), ["trajectory_id"])["trajectory_id"].to_pylist()
    assert {owners.count(one) for one in ids} == {STEPS * 8}


def test_a_killed_worker_is_replaced(tmp_path, undisturbed):
    out = tmp_path / "traces"
    process = start(out, hold_at=1)
    await_receipts(process, out, 1)
    victims = collectors_of(process)
    assert victims
    victims[0].kill()
    assert len(receipts(out)) < 10
    gate_of(out).touch()
    finish(process, out)
    assert_whole(out)
    assert open_traces(str(out)).manifest["decision_digest"] == undisturbed


def test_the_same_command_resumes_after_its_driver_was_killed(tmp_path, undisturbed):
    out = tmp_path / "traces"
    process = start(out, hold_at=2)
    await_receipts(process, out, 2)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    end_all(family)
    kept = {path: path.stat().st_mtime_ns for path in receipts(out)}
    assert 2 <= len(kept) < 10
    finish(start(out), out)
    assert_whole(out)
    assert open_traces(str(out)).manifest["decision_digest"] == undisturbed
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    assert "were committed before" in (tmp_path / "traces.log").read_text()
