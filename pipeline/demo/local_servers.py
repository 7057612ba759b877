"""Start a Ray head and an MLflow server for the demonstration, on this machine.

Both listen on free ports; Ray gets a temporary folder and a random token. Only these two servers
are stopped at the end: ``ray stop`` would stop every Ray on the machine.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import InputError

PR_SET_PDEATHSIG = 1
"""Number of the option in prctl(2)."""
START_TIMEOUT_S = 180.0
"""Longest wait for a server to answer its first request, in seconds."""


class Servers:
    """Server processes that this process started, each in a separate process group.

    Args:
        logs: folder for a log file of each server.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._started: list[subprocess.Popen] = []

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """Start a server with its output in ``NAME.log``."""
        with (self.logs / f"{name}.log").open("wb") as log:
            self._started.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.logs,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
            )

    def await_answer(self, name: str, url: str, environment: dict[str, str]) -> None:
        """Wait until the server that was started last answers.

        Raises:
            InputError: if the server ends, or does not answer in time.
        """
        server, deadline = self._started[-1], time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and server.poll() is None:
            if _answers(url, environment):
                return
            time.sleep(0.5)
        raise InputError(
            f"The {name} server must answer at {url}. It did not; read {self.logs / name}.log."
        )

    def stop(self) -> None:
        """Stop all servers: SIGTERM, then SIGKILL to those that live after 10 s."""
        for process in reversed(self._started):
            _signal_group(process, signal.SIGTERM)
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            _signal_group(process, signal.SIGKILL)
            process.wait()


def _die_with_parent() -> None:
    """Ask Linux for SIGTERM to this process once its parent has died, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_group(process: subprocess.Popen, number: int) -> None:
    # A process group that has ended needs no signal.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _answers(url: str, environment: dict[str, str]) -> bool:
    request = urllib.request.Request(url)
    request.add_header("Authorization", f"Bearer {environment.get('RAY_AUTH_TOKEN', '')}")
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False


def free_port() -> int:
    """Return a TCP port that no process listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _refuse_taken_port(port: int) -> None:
    # Another server on that port would answer in the place of the one that is started.
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError as error:
        raise InputError(
            f"--port must be free to use. Got {port}: {(error.strerror or '').lower()}. Pass "
            "another port, or 0 for any that is free."
        ) from error


@contextmanager
def ray_and_mlflow(out: Path) -> Iterator[dict[str, str]]:
    """Run a Ray head and an MLflow server; yield the environment variables that point to both."""
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    # Unix socket paths are limited to 107 bytes, and Ray appends long names to this folder.
    scratch = Path(tempfile.mkdtemp(prefix="dqar-"))
    servers = Servers(logs)
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its cache of fonts would stay in the home folder.
        "MPLCONFIGDIR": str(scratch / "matplotlib"),
    }
    environment.pop("RAY_ADDRESS", None)
    try:
        environment["MLFLOW_TRACKING_URI"] = start_mlflow(servers, out, environment)
        environment["RAY_API_SERVER_ADDRESS"] = _start_ray(servers, scratch, environment)
        yield environment
    finally:
        servers.stop()
        shutil.rmtree(scratch, ignore_errors=True)


def start_mlflow(
    servers: Servers, out: Path, environment: dict[str, str], port: int | None = None
) -> str:
    """Start an MLflow server on the store under ``out``; return its address once it answers.

    Args:
        port: port of the server; None takes a free port.
    """
    if port:
        _refuse_taken_port(port)
    port = port or free_port()
    command = [
        tool("mlflow"),
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{out / 'mlflow.db'}",
        "--artifacts-destination",
        str(out / "mlartifacts"),
    ]
    # MLflow's job runners would compete with the samplers for the cores.
    servers.start("mlflow", command, environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    url = f"http://127.0.0.1:{port}"
    servers.await_answer("mlflow", f"{url}/health", environment)
    return url


def _start_ray(servers: Servers, scratch: Path, environment: dict[str, str]) -> str:
    dashboard = free_port()
    command = [
        tool("ray"),
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--node-ip-address",
        "127.0.0.1",
        "--port",
        str(free_port()),
        "--dashboard-host",
        "127.0.0.1",
        "--dashboard-port",
        str(dashboard),
        "--dashboard-agent-listen-port",
        str(free_port()),
        "--ray-client-server-port",
        str(free_port()),
        "--temp-dir",
        str(scratch),
    ]
    servers.start("ray", command, environment)
    url = f"http://127.0.0.1:{dashboard}"
    servers.await_answer("ray", f"{url}/api/version", environment)
    return url


def tool(name: str) -> str:
    """Return the path of a command beside this Python, whose environment need not be active."""
    return str(Path(sys.executable).parent / name)
