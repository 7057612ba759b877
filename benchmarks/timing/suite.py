"""Timing benchmarks over models and batch sizes, each in a separate process with its result file.

    python -m benchmarks.timing.suite --device cpu --models dit-s-2-256 dit-b-2-256 --batches 1 4 16

Results go to ``benchmarks/results/DEVICE/``. A result that exists is not measured again, and a
benchmark that fails does not stop the next one, so the same command continues an interrupted run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing.support.architectures import ARCHITECTURES, PUBLISHED
from benchmarks.timing.support.device_clock import device_name
from benchmarks.timing.support.flags import DEVICES, DTYPES, count

RESULTS = Path(__file__).parents[1] / "results"
KINDS = ("speed", "costs", "gaps", "decide", "scaling", "compiled")
"""Kinds of results, in the order in which they are measured."""
DEFAULTS = {"cpu": ("fp32", 32), "cuda": ("bf16", 16)}
"""Dtype and cache bits by device."""
COMPILING_S = 300.0
"""Seconds added to the budget of a benchmark that compiles its models first."""
GRACE_S = 240.0
"""Seconds beyond the budget for building a model and for the last round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One process, and the file of its result."""

    module: str
    """Module of :mod:`benchmarks.timing` that is run."""
    flags: tuple[str, ...]
    """Flags of the module, without ``--out``."""
    result: str
    """Name of the result file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Models, batch sizes and kinds of results to measure on one device."""

    device: str
    models: tuple[str, ...]
    batches: tuple[int, ...]
    kinds: tuple[str, ...] = KINDS
    dtype: str
    quick: bool = False
    budget_s: float = 540.0
    """Seconds of one job; no round of it begins that would end later."""

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(KINDS)
        if unknown:
            raise ValueError(f"kinds must be of {KINDS}. Got {sorted(unknown)}. Pass {KINDS[0]!r}.")

    def jobs(self) -> Iterator[Job]:
        """Yield jobs by kind, batch and model, so that the first results cover every model."""
        for kind in (kind for kind in KINDS if kind in self.kinds):
            if kind in ("decide", "scaling"):
                yield self._of_the_device(kind)
                continue
            for batch in self.batches:
                for model in self.models:
                    yield self._of_a_model(kind, model, batch)

    def _of_the_device(self, kind: str) -> Job:
        if kind == "decide":
            return Job(module="gate_latency", flags=(), result="decide.json")
        flags = ("--device", self.device, "--dtype", self.dtype, *self._budget())
        return Job(module="scaling", flags=flags, result="scaling.json")

    def _of_a_model(self, kind: str, model: str, batch: int) -> Job:
        bits = DEFAULTS[self.device][1]
        flags = ["--model", model, "--device", self.device, "--batch", str(batch)]
        flags += ["--dtype", self.dtype, "--cache-bits", str(bits)]
        if kind == "compiled":
            flags += ["--compile", *self._budget(COMPILING_S)]
        elif kind != "gaps":
            flags += self._budget()
        module = {"costs": "cost_table", "gaps": "step_profile"}.get(kind, "speed")
        ending = "" if kind == "speed" else f"-{kind}"
        return Job(module=module, flags=tuple(flags), result=f"{model}-b{batch}{ending}.json")

    def _budget(self, more_s: float = 0.0) -> list[str]:
        return ["--budget", f"{self.budget_s + more_s:g}", *(["--quick"] if self.quick else [])]


def folder_of(device: str) -> str:
    """Folder name of a device: ``cpu``, or the name of the GPU such as ``h200``."""
    name = "cpu" if device == "cpu" else device_name(device)
    return name.lower().removeprefix("nvidia ").replace(" ", "-")


def run_series(
    series: Series, folder: Path, run: Callable[[Job, Path], bool], minutes: float | None = None
) -> list[str]:
    """Run each job whose result file does not exist; return the names of results that failed.

    Args:
        minutes: no job begins later than this many minutes after the start.
    """
    started, failed = time.monotonic(), []
    for job in series.jobs():
        out = folder / job.result
        if out.exists():
            print(f"{job.result}: exists, not measured again", flush=True)
        elif minutes is not None and time.monotonic() - started > 60.0 * minutes:
            print(f"{job.result}: time is up, left for the next run", flush=True)
        elif not run(job, out):
            failed.append(job.result)
    return failed


def run_process(job: Job, out: Path, timeout_s: float) -> bool:
    """Run a job in a separate process, to free all memory; return True if its result exists."""
    module = f"benchmarks.timing.{job.module}"
    command = [sys.executable, "-m", module, *job.flags, "--out", str(out)]
    print(" ".join(command[1:]), flush=True)
    try:
        return not subprocess.run(command, timeout=timeout_s).returncode and out.exists()
    except subprocess.TimeoutExpired:
        return False


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time several models and batch sizes.")
    parser.add_argument("--device", choices=DEVICES, required=True, help="device to time")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=sorted(ARCHITECTURES),
        default=list(PUBLISHED),
        help="architectures",
    )
    parser.add_argument(
        "--batches", nargs="+", type=count, default=[1, 4, 16, 64], help="samples side by side"
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=["speed"], help="kinds of results"
    )
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="default: fp32 on CPU, else bf16")
    parser.add_argument("--quick", action="store_true", help="few rounds in each benchmark")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for each result")
    parser.add_argument("--minutes", type=float, help="minutes after which no benchmark begins")
    parser.add_argument("--out", type=Path, help="folder; default: benchmarks/results/DEVICE")
    arguments = parser.parse_args(argv)
    series = Series(
        device=arguments.device,
        models=tuple(arguments.models),
        batches=tuple(arguments.batches),
        kinds=tuple(arguments.kinds),
        dtype=arguments.dtype or DEFAULTS[arguments.device][0],
        quick=arguments.quick,
        budget_s=arguments.budget,
    )
    failed = run_series(
        series,
        arguments.out or RESULTS / folder_of(arguments.device),
        lambda job, out: run_process(job, out, arguments.budget + COMPILING_S + GRACE_S),
        arguments.minutes,
    )
    if failed:
        sys.exit(f"No result: {', '.join(failed)}. The error of each benchmark is printed above.")


if __name__ == "__main__":
    main()
