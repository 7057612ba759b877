"""Fault injection into collections: workers, nodes, drivers and file writes are killed.

The Ray cluster runs on this machine and belongs to this process. Collections are started by
``jobs/collect.py`` and killed by signals; the code under test has no hook for faults. Used by
:mod:`benchmarks.distributed.soak` and ``tests/jobs/test_chaos.py``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import psutil

Kind = Literal["worker", "node", "driver", "write"]
"""Target of a fault: a worker's process; a node with all of its processes, after which a new node
joins; the driver, whose command is then started again; or every worker that is writing a file at
that moment."""
KINDS: tuple[Kind, ...] = get_args(Kind)
WEIGHTS = (4, 3, 1, 4)
"""Relative frequency of each of :data:`KINDS`."""
JOB = Path(__file__).parents[2] / "jobs" / "collect.py"
NODES = 3
LIMIT_S = 600.0
"""Seconds to wait for progress or for the end of a collection."""
WRITE_WAIT_S = 20.0
"""Seconds to look for a file that is being written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault that was inflicted."""

    kind: Kind
    second: float
    """Seconds since the first start of the driver."""
    receipts: int
    """Units committed when the fault was inflicted."""
    detail: str = ""
    """Process, node or file that was hit."""


class Arena:
    """A Ray cluster of one head and :data:`NODES` nodes of one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(NODES):
            self.add_node()

    @property
    def address(self) -> str:
        """Value of ``RAY_ADDRESS`` for a driver on this cluster."""
        return str(self.cluster.address)

    def add_node(self) -> None:
        """Add a node, whose one CPU holds one worker."""
        self.cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)

    def remove_node(self, rng: random.Random) -> str:
        """Kill all processes of a random node at once, as when a cloud reclaims a spot machine."""
        nodes = sorted(self.cluster.worker_nodes, key=lambda node: node.node_id)
        node = rng.choice(nodes)
        self.cluster.remove_node(node, allow_graceful=False)
        return node.node_id[:8]

    def workers(self) -> list[psutil.Process]:
        """Processes of the collection workers on this cluster."""
        found = []
        for child in psutil.Process().children(recursive=True):
            try:
                if any("ray::Collector" in word for word in child.cmdline()):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def close(self) -> None:
        """Shut this cluster down."""
        self.cluster.shutdown()


class Collection:
    """Run of ``jobs/collect.py`` into one folder, started again after each kill of its driver."""

    def __init__(self, arena: Arena, out: Path, flags: dict[str, Any]) -> None:
        self.arena = arena
        self.out = out
        self.flags = flags | {"--out": out}
        self.log = out.parent / f"{out.name}.log"
        self.started = time.monotonic()
        self.faults: list[Fault] = []
        self.driver = self._start()

    def _start(self) -> subprocess.Popen:
        words = [str(word) for flag in self.flags.items() for word in flag]
        environment = os.environ | {"RAY_ADDRESS": self.arena.address}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(JOB), *words],
                cwd=self.out.parent,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def receipts(self) -> int:
        """Count the committed units."""
        return len(list((self.out / "_receipts").glob("[!_]*.json")))

    def is_running(self) -> bool:
        """Return True if the driver's process has not ended."""
        return self.driver.poll() is None

    def await_that(self, holds: Callable[[], bool], seconds: float = LIMIT_S) -> bool:
        """Return True once ``holds()`` is true; False if the driver or the time ends before."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline or not self.is_running():
                return False
            time.sleep(0.02)
        return True

    def disturb(self, kind: Kind, rng: random.Random) -> Fault | None:
        """Inflict one fault after a further unit was committed.

        Returns:
            The fault, or None if the collection ended first or had no target for this kind.
        """
        before = self.receipts()
        is_on = self.await_that(lambda: self.receipts() > before and bool(self.arena.workers()))
        time.sleep(rng.uniform(0.0, 2.0))
        if not is_on or not self.is_running():
            return None
        receipts, second = self.receipts(), time.monotonic() - self.started
        detail = getattr(self, f"_kill_{kind}")(rng)
        if detail is None:
            return None
        fault = Fault(kind=kind, second=round(second, 1), receipts=receipts, detail=detail)
        self.faults.append(fault)
        return fault

    def _kill_worker(self, rng: random.Random) -> str | None:
        workers = self.arena.workers()
        if not workers:
            return None
        victim = rng.choice(workers)
        _signal(victim, signal.SIGKILL)
        return f"pid {victim.pid}"

    def _kill_node(self, rng: random.Random) -> str:
        killed = self.arena.remove_node(rng)
        self.arena.add_node()
        return killed

    def _kill_driver(self, rng: random.Random) -> str:
        os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()
        time.sleep(rng.uniform(0.0, 1.0))
        self.driver = self._start()
        return "started again"

    def _kill_write(self, rng: random.Random) -> str | None:
        deadline = time.monotonic() + WRITE_WAIT_S
        while time.monotonic() < deadline and self.is_running():
            workers = self.arena.workers()
            looks_until = time.monotonic() + 1.0
            while time.monotonic() < looks_until:
                if self.partial_files() and (hit := self._kill_writers(workers)):
                    return hit
        return None

    def _kill_writers(self, workers: list[psutil.Process]) -> str | None:
        # Workers are stopped first: a file is written in milliseconds and must be hit half written.
        for worker in workers:
            _signal(worker, signal.SIGSTOP)
        partial = self.partial_files()
        writers = [worker for worker in workers if _has_open(worker, partial)]
        for worker in writers:
            _signal(worker, signal.SIGKILL)
        for worker in workers:
            _signal(worker, signal.SIGCONT)
        return f"pid {writers[0].pid} in {min(partial)}" if writers else None

    def partial_files(self) -> set[str]:
        """Files that are being written, or that a killed worker left half written."""
        return {
            f"{folder}/{entry.name}"
            for folder in ("trajectories", "gates", "_receipts")
            if (self.out / folder).is_dir()
            for entry in os.scandir(self.out / folder)
            if entry.name.startswith("_") or "#" in entry.name
        }

    def finish(self) -> int:
        """Wait for the driver to end; return its exit code."""
        return self.driver.wait(timeout=LIMIT_S)

    def end(self) -> None:
        """Kill the driver if its process has not ended."""
        if self.is_running():
            os.killpg(self.driver.pid, signal.SIGKILL)
            self.driver.wait()


def _signal(process: psutil.Process, number: int) -> None:
    # A process that has ended needs no signal.
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


def _has_open(process: psutil.Process, names: set[str]) -> bool:
    try:
        return (
            any(one.path.endswith(tuple(names)) for one in process.open_files()) if names else False
        )
    except psutil.NoSuchProcess:
        return False


def draw_kinds(rng: random.Random, count: int) -> list[Kind]:
    """Draw kinds of faults in random order, each at least once if ``count`` allows.

    Further kinds follow :data:`WEIGHTS`; drivers are rarest, since a driver starts slowly.
    """
    more = rng.choices(KINDS, weights=WEIGHTS, k=max(0, count - len(KINDS)))
    kinds: list[Kind] = [*KINDS, *more]
    rng.shuffle(kinds)
    return kinds[:count]
