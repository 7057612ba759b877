"""Who is given which unit next, and when a unit is given up. No Ray: the fleet asks it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkItem:
    """A unit and what became of its attempts so far."""

    unit: Any
    deaths: int = 0
    """Attempts whose worker died."""
    errors: int = 0
    """Attempts that raised."""
    failed_on: frozenset[str] = frozenset()
    """Nodes of the attempts that raised."""

    @property
    def attempts(self) -> int:
        """Attempts that came to nothing."""
        return self.deaths + self.errors

    def died(self) -> WorkItem:
        """After one more death."""
        return replace(self, deaths=self.deaths + 1)

    def failed(self, node: str) -> WorkItem:
        """After one more error."""
        return replace(self, errors=self.errors + 1, failed_on=self.failed_on | {node})


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a unit was given up."""

    error: Exception
    """What its last attempt ended with."""
    text: str
    """The traceback, where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkResult:
    """A unit that is done or given up."""

    unit: Any
    attempts: int
    """Times that it was handed out, the last one included."""
    node: str
    """Address of the last attempt's node."""
    seconds: float
    """From handing it out for the last time to its end."""
    result: Any = None
    failure: Failure | None = None


class WorkQueue:
    """Units that wait. A failed one comes back first, so that what is wrong shows early."""

    def __init__(self, units: Sequence[Any], *, max_deaths: int, max_errors: int) -> None:
        self.max_deaths = max_deaths
        self.max_errors = max_errors
        self.waiting = deque(WorkItem(unit=unit) for unit in units)
        self.left = len(units)
        """Units that are neither done nor given up."""

    def take(self, node: str, nodes: Collection[str]) -> WorkItem | None:
        """The next ticket for a worker on ``node``; None if there is none for it.

        A unit that raised on a node is left to another of ``nodes``, where workers are, if one of
        them has not tried it: a bad GPU must not spend the unit's attempts.
        """
        for item in self.waiting:
            if node not in item.failed_on or set(nodes) <= item.failed_on:
                self.waiting.remove(item)
                return item
        return None

    def give_back(self, item: WorkItem) -> bool:
        """Whether a ticket that came to nothing is tried again."""
        if item.deaths >= self.max_deaths or item.errors >= self.max_errors:
            self.left -= 1
            return False
        self.waiting.appendleft(item)
        return True

    def finish(self) -> None:
        """One more unit is done."""
        self.left -= 1
