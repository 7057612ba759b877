"""Queue of units that decides which unit a worker gets next, and when a unit is given up.

:class:`pipeline.cluster.actor_pool.ActorPool` uses the queue. This module does not import ray.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkItem:
    """Unit with the failed attempts at it so far."""

    unit: Any
    deaths: int = 0
    """Number of attempts whose worker died."""
    errors: int = 0
    """Number of attempts that raised."""
    failed_on: frozenset[str] = frozenset()
    """Nodes on which attempts raised."""

    @property
    def attempts(self) -> int:
        """Number of failed attempts."""
        return self.deaths + self.errors

    def died(self) -> WorkItem:
        """Return the item with one more death of a worker."""
        return replace(self, deaths=self.deaths + 1)

    def failed(self, node: str) -> WorkItem:
        """Return the item with one more error, raised on ``node``."""
        return replace(self, errors=self.errors + 1, failed_on=self.failed_on | {node})


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Reason why a unit was given up."""

    error: Exception
    """Error of the last attempt."""
    text: str
    """Traceback of the error, or a message if the worker died."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkResult:
    """Outcome of a unit that is done or given up."""

    unit: Any
    attempts: int
    """Number of attempts, the last one included."""
    node: str
    """Address of the node of the last attempt."""
    seconds: float
    """Duration of the last attempt."""
    result: Any = None
    """Return value of the worker; None if the unit was given up."""
    failure: Failure | None = None
    """Reason why the unit was given up; None if it is done."""


@runtime_checkable
class Units(Protocol):
    """Units of work whose number is known, made when they are asked for."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class WorkQueue:
    """Queue of units that wait for a worker.

    A failed unit returns to the front, so that a unit that always fails is found early.

    Args:
        units: the units, in the order in which they are handed out. Each is asked for when a worker
            gets it: there may be more than memory holds.
        max_deaths: deaths of workers after which a unit is given up.
        max_errors: errors after which a unit is given up.
    """

    def __init__(self, units: Units, *, max_deaths: int, max_errors: int) -> None:
        self.max_deaths = max_deaths
        self.max_errors = max_errors
        self.left = len(units)
        """Number of units that are neither done nor given up."""
        self._failed: deque[WorkItem] = deque()
        self._fresh, self._num_fresh = iter(units), len(units)

    @property
    def waiting(self) -> int:
        """Number of units that wait for a worker."""
        return len(self._failed) + self._num_fresh

    def take(self, node: str, nodes: Collection[str]) -> WorkItem | None:
        """Take the next unit for a worker on ``node``; None if no unit is for that node.

        A unit that raised on ``node`` is kept for a worker on another node as long as one of
        ``nodes`` has not tried it, so that a broken GPU does not use up the unit's attempts.

        Args:
            node: address of the worker's node.
            nodes: addresses of all nodes with workers.
        """
        for item in self._failed:
            if node not in item.failed_on or set(nodes) <= item.failed_on:
                self._failed.remove(item)
                return item
        if not self._num_fresh:
            return None
        self._num_fresh -= 1
        return WorkItem(unit=next(self._fresh))

    def give_back(self, item: WorkItem) -> bool:
        """Return a failed unit to the front of the queue, and True, unless it is given up."""
        if item.deaths >= self.max_deaths or item.errors >= self.max_errors:
            self.left -= 1
            return False
        self._failed.appendleft(item)
        return True

    def finish(self) -> None:
        """Count one more unit as done."""
        self.left -= 1
