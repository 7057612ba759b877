"""Fuzz the jobs: odd command lines, paths and files, each refused in one line or accepted.

``python -m tests.fuzz.run --seconds 600 --seed 1`` tries cases of all kinds in turns and prints a
table by kind; ``--only KIND`` tries one kind, ``--cases N`` at most N cases. Exit code 1 if an
input was accepted that is silently wrong, or ended in a traceback, a hang or out of memory; the
command lines of these are printed.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from tests.fuzz import command_lines, documents, model_folders, paths, policies
from tests.fuzz.cases import Case, Cases
from tests.fuzz.forked_job import Ending, import_as_cases_do, import_jobs, in_child, run_case, wait
from tests.fuzz.outcome import BAD, Outcome, outcome_of
from tests.fuzz.valid_inputs import write_inputs

KINDS: dict[str, Cases] = {
    "command line": command_lines.cases,
    "path": paths.cases,
    "model folder": model_folders.cases,
    "document": documents.cases,
    "policy": policies.cases,
}
"""Generator of each kind of input."""
COLUMNS: tuple[Outcome, ...] = ("refused", "accepted", *BAD)
LIMIT_S = 20.0
"""Seconds after which a case counts as a hang."""
MOST = 10**9
"""Most cases to try."""
SHOWN = 40
"""Most failures that are printed with their command lines."""
INHERITED = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR")
"""Variables of the environment that would change what a job does."""


class Fuzzer:
    """The imported jobs, and the folder in which cases run one after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.jobs: dict[str, ModuleType] = prepare(root)

    def try_case(self, case: Case) -> tuple[Outcome, str]:
        """Run a case in a new process; return its outcome, and why it is a bad one."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        log, started = self.root / "log", time.monotonic()
        code = wait(in_child(lambda: run_case(case, self.jobs, self.work), log), LIMIT_S)
        stderr = Path(f"{log}.err").read_text(encoding="utf-8", errors="backslashreplace")
        left = tuple(sorted(str(one.relative_to(self.work)) for one in self.work.rglob("*")))
        seconds = time.monotonic() - started
        return outcome_of(case, Ending(code=code, stderr=stderr, left=left, seconds=seconds))


def prepare(root: Path) -> dict[str, ModuleType]:
    """Import the jobs, and write valid inputs into a folder; return the jobs by name."""
    os.environ |= {
        "HOME": str(root),
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_SECRET_ACCESS_KEY": "none",
        "DQAR_STORAGE_TIMEOUT_S": "2",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{root}/valid/mlflow.db",
        "OMP_NUM_THREADS": "1",
    }
    for name in INHERITED:
        os.environ.pop(name, None)
    jobs = import_jobs()
    if wait(in_child(lambda: write_inputs(root / "valid"), root / "inputs"), 300):
        raise RuntimeError(Path(f"{root}/inputs.err").read_text(encoding="utf-8"))
    import_as_cases_do(command_lines.unchanged(root / "valid"), jobs, root)
    # A garbage collection of the children would copy the memory of all imported libraries.
    gc.collect()
    gc.freeze()
    return jobs


def all_cases(kinds: Sequence[str], seed: int, root: Path) -> Iterator[Case]:
    """Yield cases of all kinds in turns, the same ones for a seed."""
    streams = []
    for kind in kinds:
        folder = root / kind.replace(" ", "-")
        folder.mkdir()
        streams.append(KINDS[kind](random.Random(f"{seed} {kind}"), folder))
    for stream in itertools.cycle(streams):
        yield next(stream)


def fuzz(kinds: Sequence[str], seed: int, seconds: float, most: int = MOST) -> list[str]:
    """Try cases for a time; print the table, and return the lines of the failures."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="dqar-fuzz-") as name:
        root = Path(name)
        fuzzer = Fuzzer(root)
        until = time.monotonic() + seconds
        for case in itertools.islice(all_cases(kinds, seed, root), most):
            if time.monotonic() > until:
                break
            outcome, why = fuzzer.try_case(case)
            counts[case.kind][outcome] += 1
            if outcome in BAD:
                failures.append(f"{outcome}: {command_of(case)}\n  {case.note}\n  {why}")
    print(table(counts))
    return failures


def command_of(case: Case) -> str:
    """The command line of a case, printable."""
    line = shlex.join(["python", f"jobs/{case.job}.py", *case.args])
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)[:2000]


def table(counts: dict[str, Counter[str]]) -> str:
    """The numbers of inputs by kind and outcome, as a Markdown table."""
    names = {"refused": "refused in one line"}
    titles = ["kind", "inputs tried", *(names.get(one, one) for one in COLUMNS)]
    rows = [
        [kind, str(found.total()), *(str(found[one]) for one in COLUMNS)]
        for kind, found in counts.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [titles, ["---"] * len(titles), *rows])


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--cases", type=int, default=MOST, help="most cases to try")
    parser.add_argument("--only", choices=list(KINDS))
    given = parser.parse_args(args)
    print(f"seed {given.seed}", flush=True)
    kinds = [given.only] if given.only else list(KINDS)
    failures = fuzz(kinds, given.seed, given.seconds, given.cases)
    print("\n".join(failures[:SHOWN]))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
