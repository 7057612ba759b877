"""Demonstration on one machine: a Ray head, an MLflow server, three submitted jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.demo.local_servers import Servers, ray_and_mlflow, start_mlflow, tool
from pipeline.errors import InputError
from pipeline.storage.output_checks import refuse_unwritable

CHECKOUT = Path(__file__).parents[2]


ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end the demonstration and its servers."""
BOUNDS = {
    "num_trajectories": (4, 10**6),
    "num_samples": (1, 10**6),
    "steps": (2, 1000),
    "port": (0, 65535),
}
"""Smallest and largest value of each number: a training holds out a quarter of the trajectories,
and the noise schedule of the shipped model has 1000 timesteps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Collect traces, train a policy and evaluate it on this machine, through Ray and MLflow.

    A Ray head and an MLflow server start on free ports and stop at the end.
    """

    out: Path = Path("runs/demo")
    """Folder for traces, policy, results, logs and the MLflow store."""
    num_trajectories: int = 192
    """Trajectories with random reuse that are collected for training."""
    num_samples: int = 32
    """Images that the evaluation samples at each operating point."""
    steps: int = 50
    """Sampling steps."""
    ui: bool = False
    """Run no job: show the MLflow store of an earlier demonstration in the MLflow UI."""
    port: int = 5000
    """Port of the MLflow UI; 0 for any that is free."""

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise ValueError(
                    f"{name} must be from {least} to {most}. Got {value}. Leave it out."
                )


def submit(job: str, flags: list[str], environment: dict[str, str]) -> None:
    """Submit ``python jobs/JOB.py FLAGS`` to Ray, and show its log on this terminal.

    Raises:
        InputError: if the job fails.
    """
    entry = [sys.executable, f"jobs/{job}.py", *flags]
    command = [tool("ray"), "job", "submit", "--working-dir", str(CHECKOUT), "--", *entry]
    print(f"\n== jobs/{job}.py {' '.join(flags)}", flush=True)
    with ending_together(subprocess.Popen(command, env=environment, cwd=CHECKOUT)) as client:
        code = client.wait()
    if code != 0:
        raise InputError(
            f"The stage jobs/{job}.py must succeed. It ended with exit code {code}; the last "
            "lines of its log above give the reason."
        )


def stages(config: DemoConfig, out: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the jobs in their order, each with its flags."""
    traces, policy, results = (str(out / name) for name in ("traces", "policy", "results"))
    size = {"--steps": config.steps, "--num-trajectories": config.num_trajectories}
    sizes = [word for flag, value in size.items() for word in (flag, str(value))]
    yield "collect", ["--model", "digits", "--out", traces, *sizes]
    yield "train", ["--traces", traces, "--out", policy]
    evaluated = ["--model", "digits", "--policy", policy, "--num-samples", str(config.num_samples)]
    yield "evaluate", [*evaluated, "--out", results, "--sweep-density", "coarse"]


def run_demo(config: DemoConfig) -> None:
    """Collect, train and evaluate; print the report and the paths of the results."""
    out = config.out.absolute()
    for folder in (out, out / "logs"):
        refuse_unwritable(str(folder))
    out.mkdir(parents=True, exist_ok=True)
    policy, results = out / "policy", out / "results"
    started = time.monotonic()
    with sigterm_unwinds(), ray_and_mlflow(out) as environment:
        for job, flags in stages(config, out):
            submit(job, flags, environment)
    print(
        f"""
{(results / "report.md").read_text()}
The demonstration took {time.monotonic() - started:.0f} s.
Table and plots: {results}/report.md, frontier.png, samples.png, results.json
Policy:          {policy}
MLflow UI:       make ui   (open the experiment, mark the runs of stage "point", press Compare)
""",
        flush=True,
    )


def serve_ui(out: Path, port: int) -> None:
    """Serve the MLflow UI on the store of an earlier demonstration, until interrupted.

    Raises:
        InputError: if ``out`` has no MLflow store.
    """
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
            print(f"MLflow UI at {url} (Ctrl-C ends it)", flush=True)
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
