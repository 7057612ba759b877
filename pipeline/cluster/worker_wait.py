"""Time in which no worker works on a unit: lines about it, and its end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from pipeline.cluster.capacity import ResourceRequest, check_feasible
from pipeline.cluster.ray_cluster import cluster_around
from pipeline.cluster.stuck_starts import reports
from pipeline.errors import IncompleteError

HINT_EVERY_S = 60.0
"""Seconds between two lines about waiting for a worker."""


class WorkerWait:
    """Wait for a worker, which ends the work after the configured time.

    Args:
        ask: resources of a worker.
        limit_minutes: longest wait; None for no end.
    """

    def __init__(self, ask: ResourceRequest, limit_minutes: float | None) -> None:
        self.ask, self.limit_minutes = ask, limit_minutes
        self._staffed_at = self._hinted_at = time.monotonic()

    def begin(self) -> None:
        """Count from now on."""
        self._staffed_at = time.monotonic()

    def check(self, now: float, actors: Iterable[Any], *, is_anyone_working: bool) -> None:
        """Say from time to time what is waited for.

        Args:
            now: monotonic time.
            actors: actors that are asked for.
            is_anyone_working: True if an actor works on a unit.

        Raises:
            IncompleteError: if nobody has worked for longer than the limit.
        """
        if is_anyone_working:
            self._staffed_at = now
        waited, limit = now - self._staffed_at, self.limit_minutes
        if limit is not None and waited > 60.0 * limit:
            raise IncompleteError(
                f"No worker was available for {waited / 60:.0f} minutes; each needs {self.ask}. "
                f"Ray reports {reports(actors)}. Run the same command again to continue from the "
                "work that is done."
            )
        if min(waited, now - self._hinted_at) > HINT_EVERY_S:
            self._hinted_at = now
            why = (
                check_feasible(self.ask, cluster_around()).line
                or "Every node that can hold one is in use, or a worker is still starting."
            )
            print(f"Still waiting for a worker. {why}", flush=True)
