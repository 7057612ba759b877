"""Seconds from a dead service to the one line: Ray head, MLflow, object store; refusing and silent.

    python -m benchmarks.distributed.dead_services --out benchmarks/results/cpu
    python -m benchmarks.distributed.dead_services --out runs/dead --only ray,doctor

Every case is a real process against a real address: one at which nothing listens (refused), or a
server that accepts connections and never answers (silent). At the start of a job the service is
dead from the beginning; in mid-stage it is killed once the stage has begun. A case has
120 s; the table says what was printed last, the exit code, and whether there was a traceback.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from pipeline.cli import run_job
from pipeline.demo.local_servers import Servers, free_port, start_mlflow, tool
from pipeline.markdown import markdown_table

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0
"""Longest wait for the end of a case, in seconds."""
BEGUN = "collect: model"
"""Text in the log of a job that has passed its checks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flags:
    """Measure the seconds from a dead service to the one line."""

    out: Path
    """Folder for dead-services.json."""
    only: tuple[str, ...] = ()
    """Words of which a case's name must contain one, such as ray or doctor; default: all cases."""


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
    begun: str | None = None
    """Text of the log at which the service is killed; None if it is dead from the start."""
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
        if case.begun is not None:
            await_text(process, log, case.begun)
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


def await_text(process: subprocess.Popen, log: Path, text: str) -> None:
    """Wait until a job's log holds a text, it ends, or :data:`LIMIT_S` have passed."""
    deadline = time.monotonic() + LIMIT_S
    while text not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            return
        time.sleep(0.1)


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


@contextmanager
def silent_server() -> Iterator[str]:
    """Address of a server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def start_head(servers: Servers, scratch: Path) -> str:
    """Start a Ray head without a dashboard; return its address once it answers."""
    from pipeline.cluster.head import why_silent

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


def start_cases(folder: Path, refused: str, silent: str) -> Iterator[Case]:
    """Yield the cases whose service is dead from the start."""
    bucket = "s3://bucket/place"
    for way, address in (("refused", refused), ("silent", silent)):
        for job in ("collect", "evaluate", "doctor"):
            ray = {"RAY_ADDRESS": address}
            flags = jobs(folder)[job]
            yield Case(name=f"start ray {way} {job}", job=job, flags=flags, environment=ray)
        for job, flags in jobs(folder, uri=f"http://{address}").items():
            yield Case(name=f"start mlflow {way} {job}", job=job, flags=flags)
        for job in ("collect", "train", "evaluate", "doctor"):
            flags = jobs(folder, out=bucket)[job]
            variables = store(address)
            name = f"start store {way} {job}"
            yield Case(name=name, job=job, flags=flags, environment=variables)


def long_flags(folder: Path, uri: str | None = None, out: str | None = None) -> list[str]:
    """Flags of a collection that lasts longer than a case."""
    uri = uri or f"sqlite:///{folder}/mlflow.db"
    sizes = ["--num-trajectories", "4000", "--unit-size", "4", "--steps", "20"]
    return ["--model", "digits", *sizes, "--out", out or str(folder / "out"), "--tracking-uri", uri]


def make_traces(folder: Path) -> None:
    """Collect the traces that trainings of the start cases name."""
    flags = jobs(folder, out=str(folder / "traces"))["collect"]
    measure(Case(name="traces", job="collect", flags=flags), folder)


def ray_in_mid_stage(folder: Path, servers: Servers, job: str) -> Outcome:
    """Kill the head of a running stage."""
    address = start_head(servers, folder / "r")
    words = jobs(folder)["evaluate"]
    words[words.index("--num-samples") + 1] = "20000"
    flags, begun = long_flags(folder), "status=done"
    if job == "evaluate":
        flags, begun = [*words, "--samples-per-task", "32"], "samples/s"
    environment = {"RAY_ADDRESS": address}
    name = f"middle ray killed {job}"
    case = Case(
        name=name, job=job, flags=flags, environment=environment, begun=begun, kill=kill_children
    )
    return measure(case, folder)


def mlflow_in_mid_stage(folder: Path, servers: Servers, job: str) -> Outcome:
    """Kill the MLflow server of a running stage; the seconds are those until the stage ends."""
    uri = start_mlflow(servers, folder, dict(os.environ))
    flags, begun = jobs(folder, uri=uri)[job], f"{job}: "
    case = Case(
        name=f"middle mlflow killed {job}", job=job, flags=flags, begun=begun, kill=kill_children
    )
    return measure(case, folder)


def store_in_mid_stage(folder: Path, servers: Servers) -> Outcome:
    """Kill the object store of a running collection."""
    port = free_port()
    script = ROOT / "tests" / "s3_server.py"
    servers.start("s3", [sys.executable, str(script), str(port)], dict(os.environ))
    address = f"127.0.0.1:{port}"
    await_bucket(address)
    return measure(
        Case(
            name="middle store killed collect",
            job="collect",
            flags=long_flags(folder, out="s3://bucket/place"),
            environment=store(address),
            begun="status=done",
            kill=kill_children,
        ),
        folder,
    )


def await_bucket(address: str) -> None:
    """Make a bucket once the store answers."""
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            request = urllib.request.Request(f"http://{address}/bucket", data=b"", method="PUT")
            urllib.request.urlopen(request, timeout=10).close()
            return
        except (OSError, urllib.error.URLError):
            time.sleep(0.5)


def outcomes(is_wanted: Callable[[str], bool], scratch: Path) -> Iterator[Outcome]:
    """Run all cases, one after another, each in a new folder."""
    with socket.socket() as taken, silent_server() as silent:
        taken.bind(("127.0.0.1", 0))
        refused = f"127.0.0.1:{taken.getsockname()[1]}"
        shared = new_folder(scratch)
        cases = [case for case in start_cases(shared, refused, silent) if is_wanted(case.name)]
        if any(case.job == "train" for case in cases):
            make_traces(shared)
        for case in cases:
            shutil.rmtree(shared / "out", ignore_errors=True)
            yield measure(case, shared)
    middle: dict[str, Callable[[Path, Servers], Outcome]] = {
        "middle store killed collect": store_in_mid_stage,
    }
    for job in ("collect", "evaluate"):
        middle[f"middle ray killed {job}"] = lambda at, servers, job=job: ray_in_mid_stage(
            at, servers, job
        )
    for job in ("collect", "evaluate", "sample"):
        middle[f"middle mlflow killed {job}"] = lambda at, servers, job=job: mlflow_in_mid_stage(
            at, servers, job
        )
    for name, run in middle.items():
        if is_wanted(name):
            yield run_middle(name, run, scratch)


def run_middle(name: str, run: Callable[[Path, Servers], Outcome], scratch: Path) -> Outcome:
    """Run a case with servers of its own, which are stopped whatever happens."""
    with ExitStack() as stack:
        folder = new_folder(scratch)
        servers = Servers(folder)
        stack.callback(servers.stop)
        try:
            return run(folder, servers)
        except (OSError, ValueError) as error:
            line = f"not staged: {error}"
            return Outcome(
                case=name, seconds=0.0, exit_code=None, has_traceback=False, last_line=line
            )


def new_folder(scratch: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix="d", dir=scratch))


def run(flags: Flags) -> int:
    rows: list[dict[str, Any]] = []
    scratch = Path(tempfile.mkdtemp(prefix="ds"))

    def is_wanted(name: str) -> bool:
        return not flags.only or any(word in name for word in flags.only)

    flags.out.mkdir(parents=True, exist_ok=True)
    try:
        for outcome in outcomes(is_wanted, scratch):
            rows.append(asdict(outcome))
            print(json.dumps(rows[-1]), flush=True)
            document = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "cases": rows}
            (flags.out / "dead-services.json").write_text(json.dumps(document, indent=2) + "\n")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    cells = [[str(value) for value in row.values()] for row in rows]
    print(markdown_table(list(Outcome.__dataclass_fields__), cells))
    return 0


if __name__ == "__main__":
    sys.exit(run_job(Flags, run, name="dead_services"))
