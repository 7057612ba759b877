"""Actors that Ray never gives a process although it could: how they come about, and their end.

Ray 2.60 loses the resources of an actor that is killed after it was given a worker process and
before its ``__init__`` has begun. The worker ignores the order ("Mismatched ActorID: ignoring
KillActor", its log says), and stays leased to the dead actor for as long as the driver lives: an
idle process whose CPU or GPU no later actor gets. Measured on two busy CPUs: 1 of 1,300 actors that
were killed within 1.5 s of their creation. So a pool kills no actor in that moment
(:func:`await_starts`), and replaces one that Ray seems to have lost (:class:`StuckStarts`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pipeline.cluster.capacity import ResourceRequest
from pipeline.cluster.head import is_on_a_cluster
from pipeline.cluster.ray_cluster import has_room, start_of, wait_for_answers
from pipeline.errors import IncompleteError

START_LIMIT_S = 120.0
"""Time without a process after which an actor is replaced, in seconds: twice the time after which
Ray itself starts a process again that did not register."""
START_WAIT_S = 10.0
"""Longest wait at the end of a pool for actors that still start, in seconds. An ``__init__`` begins
within a second of its process's lease, however long it then loads a model."""
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
        """Return the actors that Ray seems to have lost.

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


def await_starts(starting: dict[Any, Any], slots: int) -> list[Any]:
    """Wait until actors have started, or have a process for long enough to have begun; return the
    actors without a process, which have to be killed before the resources of others are freed.

    Args:
        starting: actors that start, by the reference of their first answer.
        slots: number of them that the nodes can hold beside the actors that have started. Ray's own
            account of free resources lags behind by up to a second.
    """
    deadline, count, unanswered = time.monotonic() + START_WAIT_S, len(starting), list(starting)
    while True:
        unanswered = wait_for_answers(unanswered, timeout_s=0.1)
        queued = [starting[key] for key in unanswered if start_of(starting[key]).may_get_process]
        is_full = len(queued) == len(unanswered) and count - len(queued) >= slots
        if not unanswered or is_full or time.monotonic() > deadline:
            return queued


def reports(actors: Iterable[Any]) -> str:
    """Return what Ray reports of the actors, each state with the number of its actors."""
    states = Counter(str(start_of(actor)) for actor in actors)
    return ", ".join(f"{count} x {state}" for state, count in states.items()) or "no actor"
