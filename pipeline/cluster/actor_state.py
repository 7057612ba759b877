"""Actor of a pool as the driver sees it, and the result of its unit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from pipeline.cluster.work_queue import Failure, WorkItem, WorkResult


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorState:
    """State of an actor: starting, or working on a unit."""

    actor: Any
    node: str = ""
    """Address of the actor's node; empty while the actor starts."""
    item: WorkItem | None = None
    """Unit that the actor works on; None while it starts."""
    since: float = 0.0
    """Monotonic time at which the actor was given the unit, or was asked for."""

    def is_longer_than(self, minutes: float) -> bool:
        """Return True if the actor has worked on its unit for longer than some minutes."""
        return self.item is not None and time.monotonic() - self.since > 60.0 * minutes

    def outcome(
        self, attempts: int, *, result: Any = None, failure: Failure | None = None
    ) -> WorkResult:
        """Return the result or the failure of the actor's unit."""
        assert self.item is not None
        return WorkResult(
            unit=self.item.unit,
            attempts=attempts,
            node=self.node,
            seconds=time.monotonic() - self.since,
            result=result,
            failure=failure,
        )
