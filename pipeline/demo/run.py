"""Demonstration on one machine: a Ray head, an MLflow server, three submitted jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.demo.local_servers import Servers, ray_and_mlflow, start_mlflow, tool
from pipeline.errors import InputError
from pipeline.flags.bounds import STEPS, Range, require_within
from pipeline.storage.output_checks import refuse_unwritable

CHECKOUT = Path(__file__).parents[2]
RANGES = {
    "num_trajectories": Range(least=2, most=10**8, usual=192),
    "num_samples": Range(least=1, most=10**7, usual=32),
    "steps": STEPS,
    "port": Range(least=1, most=65535, usual=5000),
}
"""Values that the flags may have."""


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
    """Port of the MLflow UI."""

    def __post_init__(self) -> None:
        require_within(self, RANGES)


def submit(job: str, flags: list[str], environment: dict[str, str]) -> None:
    """Submit ``python jobs/JOB.py FLAGS`` to Ray, and show its log on this terminal.

    Raises:
        InputError: if the job fails.
    """
    entry = [sys.executable, f"jobs/{job}.py", *flags]
    command = [tool("ray"), "job", "submit", "--working-dir", str(CHECKOUT), "--", *entry]
    print(f"\n== jobs/{job}.py {' '.join(flags)}", flush=True)
    code = subprocess.run(command, env=environment, cwd=CHECKOUT, check=False).returncode
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
    refuse_unwritable(str(config.out))
    out = config.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    policy, results = out / "policy", out / "results"
    started = time.monotonic()
    with ray_and_mlflow(out) as environment:
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
    if not (out / "mlflow.db").exists():
        raise InputError(
            f"--out must be the folder of an earlier demonstration. Got {out}, which has no "
            "mlflow.db. Run make demo first."
        )
    servers = Servers(out / "logs")
    try:
        url = start_mlflow(servers, out, dict(os.environ), port)
        print(f"MLflow UI at {url} (Ctrl-C ends it)", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print()
    finally:
        servers.stop()
