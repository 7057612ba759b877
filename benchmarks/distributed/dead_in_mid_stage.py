"""Services that die while a stage runs: Ray head, object store, MLflow."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.distributed.dead_at_start import make_traces
from benchmarks.distributed.mlflow_server import MlflowServer
from benchmarks.distributed.timed_jobs import LIMIT_S, ROOT, Case, Outcome, jobs, measure, store
from pipeline.cluster.head import why_silent
from pipeline.demo.local_servers import Servers, free_port, tool

STAGES = ("collect", "train", "evaluate", "sample", "sweep")


@dataclass(frozen=True, kw_only=True, slots=True)
class Death:
    """A way in which a service dies under a job."""

    service: str
    """ray, store or mlflow."""
    job: str
    way: str
    """killed, or silent: its processes are stopped, and its connections stay open."""

    @property
    def name(self) -> str:
        return f"middle {self.service} {self.way} {self.job}"


def deaths() -> Iterator[Death]:
    """Yield the cases: each job with each service that it needs after its begin."""
    for job in ("collect", "evaluate"):
        yield Death(service="ray", job=job, way="killed")
    for job in ("collect", "train"):
        yield Death(service="store", job=job, way="killed")
    for way in ("killed", "silent"):
        for job in STAGES:
            yield Death(service="mlflow", job=job, way=way)


def dead_in_mid_stage(is_wanted: Callable[[str], bool], scratch: Path) -> Iterator[Outcome]:
    """Run the cases of a service that dies in mid-stage, each in a new folder."""
    run = {"ray": without_head, "store": without_store, "mlflow": without_mlflow}
    for death in deaths():
        if is_wanted(death.name):
            folder = Path(tempfile.mkdtemp(prefix="d", dir=scratch))
            with ExitStack() as stack:
                servers = Servers(folder)
                stack.callback(servers.stop)
                yield run[death.service](death, folder, servers)


def without_head(death: Death, folder: Path, servers: Servers) -> Outcome:
    """Kill the Ray head of a running stage."""
    address = start_head(servers, folder / "r")
    words = jobs(folder)["evaluate"]
    words[words.index("--num-samples") + 1] = "20000"
    flags, begun = long_flags(folder), "status=done"
    if death.job == "evaluate":
        flags, begun = [*words, "--samples-per-task", "32"], "samples/s"
    case = Case(
        name=death.name,
        job=death.job,
        flags=flags,
        environment={"RAY_ADDRESS": address},
        has_begun=lambda log: begun in log,
        kill=kill_children,
    )
    return measure(case, folder)


def without_store(death: Death, folder: Path, servers: Servers) -> Outcome:
    """Kill the object store of a collection, or of a training whose policy goes there."""
    port = free_port()
    script = ROOT / "tests" / "s3_server.py"
    servers.start("s3", [sys.executable, str(script), str(port)], dict(os.environ))
    address = f"127.0.0.1:{port}"
    await_bucket(address)
    flags, begun = long_flags(folder, out="s3://bucket/place"), "status=done"
    if death.job == "train":
        make_traces(folder)
        flags = jobs(folder, out="s3://bucket/policy")["train"]
        flags[flags.index("--traces") + 1] = str(folder / "traces")
        begun = "optimizer steps"
    case = Case(
        name=death.name,
        job=death.job,
        flags=flags,
        environment=store(address),
        has_begun=lambda log: begun in log,
        kill=kill_children,
    )
    return measure(case, folder)


def without_mlflow(death: Death, folder: Path, servers: Servers) -> Outcome:
    """Kill or stop the MLflow server once a stage logs to its run; the seconds are those until the
    stage has ended, its work included."""
    if death.job == "train":
        make_traces(folder)
    server = MlflowServer(folder / "server")
    server.start()
    number = signal.SIGKILL if death.way == "killed" else signal.SIGSTOP
    case = Case(
        name=death.name,
        job=death.job,
        flags=jobs(folder, uri=server.url)[death.job],
        has_begun=lambda _: has_parameters(server.database, death.job),
        kill=lambda: server.send(number),
    )
    try:
        return measure(case, folder)
    finally:
        server.kill()


def has_parameters(database: Path, stage: str) -> bool:
    """Return True once the run of a stage holds parameters, read past the server."""
    query = (
        "SELECT count(*) FROM params JOIN tags USING (run_uuid) "
        "WHERE tags.key = 'stage' AND tags.value = ?"
    )
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
        return bool(reader.execute(query, (stage,)).fetchone()[0])


def long_flags(folder: Path, uri: str | None = None, out: str | None = None) -> list[str]:
    """Flags of a collection that lasts longer than a case."""
    uri = uri or f"sqlite:///{folder}/mlflow.db"
    sizes = ["--num-trajectories", "4000", "--unit-size", "4", "--steps", "20"]
    return ["--model", "digits", *sizes, "--out", out or str(folder / "out"), "--tracking-uri", uri]


def start_head(servers: Servers, scratch: Path) -> str:
    """Start a Ray head without a dashboard; return its address once it answers."""
    port, client = free_port(), free_port()
    words = ["--head", "--block", "--disable-usage-stats", "--include-dashboard", "false"]
    places = ["--node-ip-address", "127.0.0.1", "--temp-dir", str(scratch)]
    ports = ["--port", str(port), "--ray-client-server-port", str(client), "--num-cpus", "2"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    servers.start("ray", [tool("ray"), "start", *words, *places, *ports], environment)
    deadline = time.monotonic() + LIMIT_S
    while why_silent(f"127.0.0.1:{port}") and time.monotonic() < deadline:
        time.sleep(0.5)
    return f"127.0.0.1:{port}"


def await_bucket(address: str) -> None:
    """Make a bucket once the store answers."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            request = urllib.request.Request(f"http://{address}/bucket", data=b"", method="PUT")
            urllib.request.urlopen(request, timeout=10).close()
            return
        except (OSError, urllib.error.URLError):
            time.sleep(0.5)


SERVERS = ("gcs_server", "raylet", "mlflow", "s3_server", "ray::", "/ray/", "ray start", "uvicorn")
"""Words of the command lines of servers."""


def kill_children() -> None:
    """Kill the servers that this process started, with all their processes, but not the job."""
    for child in psutil.Process().children(recursive=True):
        try:
            line = " ".join([child.name(), *child.cmdline()])
            if any(word in line for word in SERVERS) and "/jobs/" not in line:
                child.kill()
        except psutil.NoSuchProcess:
            continue
