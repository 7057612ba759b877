"""Jobs in a process group of their own, and SIGKILL for all that they started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
LIMIT_S = 600


def start(words: list, log: Path) -> subprocess.Popen:
    """Start Python with the words in the folder of a log, to which its output is appended.

    The job has one thread, so that what it computes equals to the bit what another start computes.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=log.parent,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen, log: Path) -> None:
    """Wait for the end, which must be a success."""
    assert process.wait(timeout=LIMIT_S) == 0, log.read_text()[-3000:]


def wait_until(is_time: Callable[[], object], process: subprocess.Popen, log: Path) -> None:
    """Wait for something that a process that still runs does."""
    deadline = time.monotonic() + LIMIT_S
    while not is_time():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_when(is_time: Callable[[], object], process: subprocess.Popen, log: Path) -> None:
    """Send SIGKILL to a process and all that it started."""
    wait_until(is_time, process, log)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=30)
