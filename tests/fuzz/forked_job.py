"""One case in a forked process, which finds the libraries imported and stops where work starts."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from tests.fuzz.cases import Case

ACCEPTED = 77
"""Exit code of a job that was stopped where its work starts."""
UNUSABLE = 78
"""Exit code of a job that accepted an output folder into which nothing can be written."""
CPU_S = 20
MEMORY_BYTES = 12 * 2**30
"""Address space of a case, most of which the imported libraries reserve."""
WORK = {
    "collect": ("pipeline.collect.run.collect_traces", "pipeline.collect.unit_size.ActorPool"),
    "train": ("pipeline.train.run.train_policy",),
    "evaluate": ("pipeline.evaluate.run.evaluate_methods",),
    "sample": ("pipeline.sample.run.sample_images",),
    "sweep": ("pipeline.evaluate.sweeps.run.run_sweep",),
    "pretrain": ("pipeline.models.digits_pretrain.pretrain",),
    "doctor": ("pipeline.doctor.run.examine",),
    "demo": ("pipeline.demo.run.ray_and_mlflow", "pipeline.demo.run.start_mlflow"),
}
"""Functions that do the work of each job; a case ends where one of them is called."""


class Started(BaseException):
    """The job's checks have passed, and its work was about to start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """Exit code and output of a case's process."""

    code: int
    """Exit code; minus the signal that ended the process; 124 for a process that was stopped."""
    stderr: str
    left: tuple[str, ...]
    """Files that are new in the working folder."""
    seconds: float


def import_jobs() -> dict[str, ModuleType]:
    """Import the jobs and the functions that do their work; return the jobs by name."""
    for target in (target for targets in WORK.values() for target in targets):
        importlib.import_module(target.rpartition(".")[0])
    return {name: importlib.import_module(f"jobs.{name}") for name in WORK}


def import_as_cases_do(cases: Iterable[Case], jobs: dict[str, ModuleType], root: Path) -> None:
    """Import what the given cases import late, so that later processes find it imported."""
    names = root / "modules"
    for case in cases:
        work = root / f"first-{case.job}"
        work.mkdir(exist_ok=True)
        wait(
            in_child(lambda case=case, work=work: _note_modules(case, jobs, work, names), work), 120
        )
        for name in names.read_text().split():
            if name not in sys.modules:
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)


def _note_modules(case: Case, jobs: dict[str, ModuleType], work: Path, names: Path) -> None:
    run_case(case, jobs, work)
    names.write_text("\n".join(sys.modules))


def in_child(action: Callable[[], object], log: Path) -> int:
    """Start an action in a forked process; return the process's id.

    Standard output and error go to files beside ``log``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        with open(f"{log}.out", "wb") as out, open(f"{log}.err", "wb") as err:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
        code = _ended(action)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # Without the exit handlers of the parent process.
        os._exit(code)


def _ended(action: Callable[[], object]) -> int:
    try:
        found = action()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return found if isinstance(found, int) else 0


def run_case(case: Case, jobs: dict[str, ModuleType], work: Path) -> int:
    """Enter the job of a case as its command line would, in this process; return the exit code."""
    os.chdir(work)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for target in WORK[case.job]:
        module, _, name = target.rpartition(".")
        setattr(sys.modules[module], name, _start)
    sys.argv = [f"jobs/{case.job}.py", *case.args]
    try:
        return jobs[case.job].main()
    except Started:
        return UNUSABLE if (unusable := _unusable_output(case)) and _say(unusable) else ACCEPTED


def _start(*args: object, **named: object) -> None:
    raise Started


def _say(text: str) -> bool:
    print(text, file=sys.stderr)
    return True


def _unusable_output(case: Case) -> str:
    """Write into the output folder that was accepted; return the error, empty for none."""
    given = [one.removeprefix("--out=") for one in case.args if one.startswith("--out=")]
    given += [value for flag, value in pairwise(case.args) if flag == "--out"]
    if case.job in ("doctor", "demo") or not given or "://" in given[-1]:
        return ""
    from pipeline.storage.object_store import open_storage

    try:
        storage = open_storage(given[-1])
        storage.write("images/000.png", b"x")
        storage.delete("images/000.png")
    except Exception as error:
        return f"The output folder was accepted, and cannot be written: {error!r}"
    return ""


def wait(pid: int, limit_s: float) -> int:
    """Wait for a process; return its exit code, minus its signal, or 124 after stopping it."""
    until = time.monotonic() + limit_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return 124
        time.sleep(0.005)
