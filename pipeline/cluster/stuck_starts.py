"""Actors that Ray never gives a process although it could: how they come about, and their end.

Ray 2.60 loses the resources of an actor that is killed in the moment in which it gets its worker
process: they count as taken for as long as the node lives, and no later actor gets them. Measured
with two CPUs: one of 1,300 actors that were killed within 1.5 s of their creation. So a pool kills
no actor in that moment (:func:`await_processes`), and replaces one that Ray seems to have lost
(:class:`StuckStarts`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pipeline.cluster.capacity import ResourceRequest
from pipeline.cluster.head import is_on_a_cluster
from pipeline.cluster.ray_cluster import has_room, start_of
from pipeline.errors import IncompleteError

START_LIMIT_S = 120.0
"""Time without a process after which an actor is replaced, in seconds: twice the time after which
Ray itself starts a process again that did not register."""
PROCESS_WAIT_S = 20.0
"""Longest wait at the end of a pool for the processes of actors that still start, in seconds."""
MOST_IN_A_ROW = 3
"""Actors replaced with none ready in between, after which the work ends."""


class StuckStarts:
    """Judge of the actors that have been starting for longer than :data:`START_LIMIT_S`.

    Args:
        ask: resources of a worker.
    """

    def __init__(self, ask: ResourceRequest) -> None:
        self.ask = ask
        self.in_a_row = 0
        """Actors replaced since one was last ready."""

    def find(self, late: list[Any], *, others: Iterable[Any], is_anyone_working: bool) -> list[Any]:
        """Return the actors that Ray has forgotten, as far as can be told.

        Args:
            late: actors that have been starting for too long.
            others: all other actors that are starting.
            is_anyone_working: True if an actor works on a unit.
        """
        stuck = [actor for actor in late if not start_of(actor).has_process]
        if not stuck or has_room(self.ask):
            return stuck
        # Nobody else uses a local Ray: what it counts as taken without a process is lost.
        is_idle = not is_anyone_working and len(stuck) == len(late)
        is_ours = is_idle and not is_on_a_cluster()
        return stuck if is_ours and not any(start_of(one).has_process for one in others) else []

    def count(self, actor: Any) -> None:
        """Report an actor that is replaced.

        Raises:
            IncompleteError: if :data:`MOST_IN_A_ROW` were replaced before, with none ready since.
        """
        self.in_a_row += 1
        line = (
            f"A worker did not start within {START_LIMIT_S:g} s although its resources ({self.ask})"
            f" are free; Ray reports it as {reports([actor])}."
        )
        if self.in_a_row > MOST_IN_A_ROW:
            raise IncompleteError(
                f"{line} So did the {MOST_IN_A_ROW} before it. Run the same command again to "
                "continue from the work that is done; restart Ray if this repeats."
            )
        print(f"{line} It is replaced.", flush=True)


def await_processes(actors: list[Any], ask: ResourceRequest) -> list[Any]:
    """Wait until each actor has a process, as long as there is room for one; return the actors that
    have none, which have to be killed before the resources of others are freed.

    Args:
        actors: actors that are starting.
        ask: resources of a worker.
    """
    deadline = time.monotonic() + PROCESS_WAIT_S
    while waiting := [actor for actor in actors if not start_of(actor).has_process]:
        if not has_room(ask) or time.monotonic() > deadline:
            return waiting
        time.sleep(0.02)
    return []


def reports(actors: Iterable[Any]) -> str:
    """Return what Ray reports of the actors, each state with the number of its actors."""
    states = Counter(str(start_of(actor)) for actor in actors)
    return ", ".join(f"{count} x {state}" for state, count in states.items()) or "no actor"
