"""Demonstration on one machine: a Ray head, an MLflow server, three submitted jobs."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.demo.job_log import JobLog
from pipeline.demo.local_servers import Servers, ray_and_mlflow, start_mlflow, tool
from pipeline.errors import InputError
from pipeline.flags.bounds import Range, require_within
from pipeline.storage.output_checks import refuse_unwritable

SITES = "attn,ff"
"""Sites whose reuse is learned: reuse of the attention alone saves a fifth of the FLOPs at most."""
CHECKOUT = Path(__file__).parents[2]
RANGES = {
    "num_trajectories": Range(least=4, most=10**6, usual=192),
    "num_samples": Range(least=1, most=10**6, usual=32),
    "steps": Range(least=2, most=1000, usual=50),
    "tuning_evaluations": Range(least=0, most=10**12, usual=50_000),
    "port": Range(least=0, most=65535, usual=5000),
}
"""Values that the flags may have: a training holds out a quarter of the trajectories, and the noise
schedule of the shipped model has 1000 timesteps."""
TABLE, LINK = "Relative L2 error of the final latent", "\nComparison: "
"""Begin of the last lines of an evaluation, and what follows on its table and decision."""
OWN = {"logs", "mlflow.db", "mlartifacts", "traces", "policy", "results", "samples"}
"""Files and folders of a demonstration."""
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end the demonstration and its servers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Collect traces, train a policy and evaluate it on this machine, through Ray and MLflow.

    A Ray head and an MLflow server start on free ports and stop at the end.
    """

    out: str = "runs/demo"
    """Folder for traces, policy, results, logs and the MLflow store."""
    num_trajectories: int = 192
    """Trajectories with random reuse that are collected for training."""
    num_samples: int = 32
    """Images that the evaluation samples at each operating point."""
    steps: int = 50
    """Sampling steps."""
    tuning_evaluations: int = 50_000
    """Guided model evaluations that each method of the evaluation may spend on its choice."""
    ui: bool = False
    """Run no job: show the MLflow store of an earlier demonstration in the MLflow UI."""
    port: int = 5000
    """Port of the MLflow UI; 0 for any that is free."""

    def __post_init__(self) -> None:
        require_within(self, RANGES)


def submit(job: str, flags: list[str], environment: dict[str, str], log: Path) -> None:
    """Submit ``python jobs/JOB.py FLAGS`` to Ray; show the stage's lines, keep all of them.

    Args:
        job: name of the stage.
        flags: its command line.
        environment: variables that point to the servers.
        log: file for the whole output of the job.

    Raises:
        InputError: if the job fails, with the last lines of its output printed before.
    """
    entry = [sys.executable, f"jobs/{job}.py", *flags]
    command = [tool("ray"), "job", "submit", "--working-dir", str(CHECKOUT), "--", *entry]
    print(f"\n== python jobs/{job}.py {' '.join(flags)}", flush=True)
    # The width of the job's own progress reports does not depend on the terminal.
    process = subprocess.Popen(
        command,
        env=environment | {"PYTHONUNBUFFERED": "1"},
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    output = JobLog(job, log)
    with ending_together(process) as client:
        code = output.follow(client)
    if code != 0:
        print("\n".join(output.last), flush=True)
        raise InputError(
            f"The stage jobs/{job}.py must succeed. It ended with exit code {code}. The last lines "
            f"of its output stand above; all of it is in {log}."
        )


def stages(config: DemoConfig, out: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the jobs in their order, each with its flags."""
    traces, policy, results = (str(out / name) for name in ("traces", "policy", "results"))
    size = {"--steps": config.steps, "--num-trajectories": config.num_trajectories}
    sizes = [word for flag, value in size.items() for word in (flag, str(value))]
    yield "collect", ["--model", "digits", "--sites", SITES, "--out", traces, *sizes]
    yield "train", ["--traces", traces, "--out", policy]
    evaluated = ["--model", "digits", "--policy", policy, "--num-samples", str(config.num_samples)]
    tuned = ["--tuning-evaluations", str(config.tuning_evaluations)]
    yield "evaluate", [*evaluated, "--out", results, "--sweep-density", "coarse", *tuned]


def run_demo(config: DemoConfig) -> None:
    """Collect, train and evaluate; print the comparison and where to look at it."""
    refuse_unwritable(config.out)
    out = Path(config.out).absolute()
    refuse_other_contents(out)
    for folder in (out, out / "logs"):
        refuse_unwritable(str(folder))
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with sigterm_unwinds(), ray_and_mlflow(out) as environment:
        for job, flags in stages(config, out):
            submit(job, flags, environment, out / "logs" / f"{job}.log")
    print(ending(config, out, time.monotonic() - started), flush=True)


def refuse_other_contents(out: Path) -> None:
    """Refuse a folder that an earlier demonstration has not made.

    Raises:
        InputError: if the folder holds other files.
    """
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if found - OWN and "mlflow.db" not in found:
        raise InputError(
            f"--out must be a new folder or that of an earlier demonstration. Got {out}, which "
            "holds other files. Name another folder."
        )


def ending(config: DemoConfig, out: Path, seconds: float) -> str:
    """Return the last lines of the demonstration: those of its evaluation, and where to look.

    The lines are taken from the evaluation's log: the modules that made them write into the home
    folder when they are imported.

    Args:
        config: settings of the demonstration.
        out: its folder.
        seconds: time that the stages took.
    """
    said = (out / "logs" / "evaluate.log").read_text(encoding="utf-8")
    table = said[said.index(TABLE) : said.index(LINK)].strip()
    command = said.partition("\nSample: ")[2].splitlines()[0]
    program = str(shown_path(Path(sys.executable)))
    sample = shlex.join([program, *shlex.split(command)[1:-1], str(out / "samples")])
    return f"""
{table}

Collected, trained and evaluated in {seconds:.0f} s. Clock and FID say nothing about
{config.num_samples} images of 8 x 8 pixels and are left out. The output of Ray, of MLflow and of
the jobs is in {out / "logs"}.

Compare: make ui    (MLflow on the comparison, with links to the report and the policy)
Report:  {out / "results" / "report.html"}
Sample:  {sample}
"""


def shown_path(path: Path) -> Path:
    """Return a path relative to the working folder where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def serve_ui(out: Path, port: int) -> None:
    """Serve the MLflow UI on the store of an earlier demonstration, until interrupted.

    Raises:
        InputError: if ``out`` has no MLflow store.
    """
    # Read by MLflow when it is imported; it would leave a file in the home folder.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from pipeline.tracking.pages import latest_comparison

    out = out.absolute()
    refuse_unwritable(str(out / "logs"))
    if not (out / "mlflow.db").exists():
        raise InputError(
            f"--out must be the folder of an earlier demonstration. Got {out}, which has no "
            "mlflow.db. Run make demo first."
        )
    (out / "logs").mkdir(exist_ok=True)
    servers = Servers(out / "logs")
    try:
        with sigterm_unwinds():
            url = start_mlflow(servers, out, dict(os.environ), port)
            page = latest_comparison(url) or ""
            print(f"Open {url}/{page}\n(Ctrl-C ends the server)", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print()
    finally:
        servers.stop()


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that servers are stopped; without a
    handler the process would end at once and leave them running."""

    def end(number: int, frame: object) -> None:
        # A second signal must not interrupt the stopping of the servers.
        for one in ENDING:
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending_together(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Terminate a process at the end of the block, if it still runs."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
