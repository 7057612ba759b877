"""Runs of pytest in forked processes, which find the third-party libraries imported."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.import_graph import ROOT

LIBRARIES = ("torch", "pyarrow.dataset", "pyarrow.parquet", "mlflow", "diffusers", "sklearn")
"""Libraries that take most of the time to start a test, 3 of 5 s of a CPU core."""
QUICK = ("-x", "-q", "-m", "not slow", "-k", "not s3", "-p", "no:cacheprovider")
"""Options of pytest: up to the first failure, without slow tests and without object stores."""
PRELOADED = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
"""Option of pytest: some plugins were imported with the libraries, before pytest began."""
LIMIT_S = 300
"""Seconds after which tests are stopped; a mutant that hangs counts as killed."""


def preload() -> None:
    """Import the third-party libraries, which forked processes share."""
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"HOME": home, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        for name in LIBRARIES:
            importlib.import_module(name)


def run_tests(root: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run quick tests on folder storage in a copy of the tree; return pytest's exit code and its
    output. The exit code is 1 if the tests were stopped after :data:`LIMIT_S`."""
    with tempfile.NamedTemporaryFile() as log:
        process = multiprocessing.get_context("fork").Process(
            target=_run_pytest, args=(root, tests, log.name)
        )
        process.start()
        process.join(LIMIT_S)
        if process.is_alive():
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
            return 1, f"FAILED tests::stopped after {LIMIT_S} s"
        return process.exitcode or 0, Path(log.name).read_text(encoding="utf-8", errors="replace")


def _run_pytest(root: Path, tests: Sequence[str], log: str) -> None:
    os.setsid()
    with open(log, "wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    _enter(root)
    import pytest

    code = pytest.main([*QUICK, *PRELOADED, *tests])
    sys.stdout.flush()
    # Without the exit handlers of the parent process.
    os._exit(code)


def _enter(root: Path) -> None:
    """Take modules from the copy of the tree, in this process and in those that it starts."""
    os.chdir(root)
    os.environ["PYTHONPATH"] = str(root)
    sys.path[:] = [str(root), *(one for one in sys.path if one not in ("", str(ROOT)))]
    for name in list(sys.modules):
        if name.partition(".")[0] in ("tests", "dqar", "pipeline", "jobs", "benchmarks"):
            del sys.modules[name]
