"""Mutation analysis: put each fault of the tables into a copy of the tree, and run its tests.

``python -m tests.mutation.run`` tries all mutants, ``python -m tests.mutation.run lease`` those
whose file or fault contains a word. Exit code 1 if a mutant survived without a stated reason.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.import_graph import ROOT
from tests.mutation.control_mutants import CONTROL_MUTANTS
from tests.mutation.dqar_mutants import DQAR_MUTANTS
from tests.mutation.forked_pytest import preload, run_tests
from tests.mutation.mutant import Mutant
from tests.mutation.pipeline_mutants import PIPELINE_MUTANTS
from tests.mutation.traces_mutants import TRACES_MUTANTS

MUTANTS = TRACES_MUTANTS + PIPELINE_MUTANTS + CONTROL_MUTANTS + DQAR_MUTANTS
NOT_COPIED = (".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "runs", "docs", "results")


def copy_tree(target: Path) -> None:
    """Copy the files that the tests need into a new folder."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_COPIED))


def outcome_of(mutant: Mutant, root: Path) -> str:
    """Run a mutant's tests in a copy of the tree; return ``killed`` or ``survived`` with a detail.

    Raises:
        RuntimeError: if the tests could not be run, so that they say nothing about the mutant.
    """
    source = mutant.apply(root)
    try:
        code, output = run_tests(root, mutant.tests)
    finally:
        (root / mutant.file).write_text(source, encoding="utf-8")
    if code == 0:
        return f"survived ({mutant.equivalent})" if mutant.equivalent else "survived"
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if code != 1 or not failed:
        raise RuntimeError(
            f"Tests must run for the mutant {mutant.fault!r}. Got exit code {code}:\n{output}"
        )
    return f"killed by {failed[0].split(' - ')[0].partition('::')[2] or failed[0]}"


def try_all(mutants: Sequence[Mutant], root: Path) -> list[str]:
    """Print and return the outcome of each mutant."""
    outcomes = []
    for mutant in mutants:
        started = time.monotonic()
        outcomes.append(outcome_of(mutant, root))
        seconds = time.monotonic() - started
        print(f"{seconds:5.1f} s  {mutant.file}: {mutant.fault}: {outcomes[-1]}", flush=True)
    return outcomes


def summary_of(mutants: Sequence[Mutant], outcomes: Sequence[str]) -> str:
    """Count killed mutants, survivors and survivors with a reason, in one line."""
    survivors = [
        m for m, outcome in zip(mutants, outcomes, strict=True) if outcome.startswith("surv")
    ]
    explained = sum(bool(mutant.equivalent) for mutant in survivors)
    return (
        f"{len(mutants)} mutants: {len(mutants) - len(survivors)} killed, {len(survivors)} "
        f"survived, {explained} of them with a stated reason"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants that a command line names; return 1 if one survived without a reason."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("words", nargs="*", help="words of files or faults; none tries all mutants")
    words = parser.parse_args(arguments).words
    chosen = [
        mutant
        for mutant in MUTANTS
        if not words or any(word in f"{mutant.file}: {mutant.fault}" for word in words)
    ]
    with tempfile.TemporaryDirectory(prefix="dqar-mutants-") as scratch:
        root = Path(scratch) / "tree"
        copy_tree(root)
        preload()
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        code, output = run_tests(root, tests)
        if code != 0:
            raise RuntimeError(f"Tests must pass without a mutant. Got exit code {code}:\n{output}")
        outcomes = try_all(chosen, root)
    print(summary_of(chosen, outcomes))
    return int("survived" in outcomes)


if __name__ == "__main__":
    sys.exit(main())
