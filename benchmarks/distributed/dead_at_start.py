"""Jobs whose service is dead before they start: it refuses connections, or never answers."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.distributed.timed_jobs import Case, Outcome, jobs, measure, store


def dead_at_start(is_wanted: Callable[[str], bool], folder: Path) -> Iterator[Outcome]:
    """Run the cases of a service that is dead from the start, one after another."""
    with socket.socket() as taken, silent_server() as silent:
        taken.bind(("127.0.0.1", 0))
        refused = f"127.0.0.1:{taken.getsockname()[1]}"
        cases = [case for case in start_cases(folder, refused, silent) if is_wanted(case.name)]
        if any(case.job == "train" for case in cases):
            make_traces(folder)
        for case in cases:
            shutil.rmtree(folder / "out", ignore_errors=True)
            yield measure(case, folder)


@contextmanager
def silent_server() -> Iterator[str]:
    """Address of a server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


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


def make_traces(folder: Path) -> None:
    """Collect the traces that trainings of the start cases name."""
    flags = jobs(folder, out=str(folder / "traces"))["collect"]
    measure(Case(name="traces", job="collect", flags=flags), folder)
