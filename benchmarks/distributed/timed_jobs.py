"""A job as a process, and the seconds from the death of a service to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_S = 300.0
"""Longest wait for the end of a case, in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A job against a service that is dead, from the start or from the middle."""

    name: str
    """Service, way to be dead, and job."""
    job: str
    """Name of the job, without ``.py``."""
    flags: list[str]
    """Flags of the job."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that differ from those of this process."""
    has_begun: Callable[[str], bool] | None = None
    """Says of the job's log whether the service is to be killed now; None if it is dead from the
    start."""
    kill: Callable[[], None] = lambda: None
    """Kills the service in mid-stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """End of a case."""

    case: str
    seconds: float
    """Seconds from the start of the process, or from the death of the service."""
    exit_code: int | None
    """None if the case was ended after :data:`LIMIT_S`."""
    has_traceback: bool
    last_line: str


def measure(case: Case, folder: Path) -> Outcome:
    """Run a case and return how it ended."""
    log = folder / "job.log"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", **case.environment}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / f"{case.job}.py"), *case.flags],
            env=environment,
            cwd=folder,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if case.has_begun is not None:
            await_begin(process, log, case.has_begun)
            case.kill()
        started = time.monotonic()
        code = wait(process)
    finally:
        end_group(process)
    said = log.read_text(errors="replace")
    lines = [line for line in said.splitlines() if line.strip()] or [""]
    return Outcome(
        case=case.name,
        seconds=round(time.monotonic() - started, 1),
        exit_code=code,
        has_traceback="Traceback (most recent call last)" in said,
        last_line=lines[-1][:240],
    )


def await_begin(process: subprocess.Popen, log: Path, has_begun: Callable[[str], bool]) -> None:
    """Wait until a job has come to its moment, it ends, or :data:`LIMIT_S` have passed."""
    deadline = time.monotonic() + LIMIT_S
    while not has_begun(log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            return
        time.sleep(0.05)


def wait(process: subprocess.Popen) -> int | None:
    try:
        return process.wait(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return None


def end_group(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def store(address: str) -> dict[str, str]:
    """Variables of an object store at an address."""
    return {
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": "us-east-1",
    }


def jobs(folder: Path, *, out: str | None = None, uri: str | None = None) -> dict[str, list[str]]:
    """Flags of each job that a service can stop, with another output or tracking store."""
    uri = uri or f"sqlite:///{folder}/mlflow.db"
    places = ["--out", out or str(folder / "out"), "--tracking-uri", uri]
    few = ["--num-trajectories", "8", "--unit-size", "4", "--steps", "4"]
    return {
        "collect": ["--model", "digits", *few, *places],
        "train": ["--traces", out or str(folder / "traces"), *places],
        "evaluate": ["--model", "digits", "--num-samples", "2", "--steps", "4", *places],
        "sample": ["--model", "digits", "--num-samples", "1", "--steps", "2", *places],
        "sweep": ["threshold", "--runs", "1", *places],
        "doctor": places,
    }
