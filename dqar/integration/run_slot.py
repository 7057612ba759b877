"""Where a sampling run sits in a patched model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dqar.config import CachedParts
from dqar.control.controller import DQARController
from dqar.integration.step_counter import Run


class RunSlot:
    """Where a run and its controller sit; empty between runs, and then the model is stock.

    Each thread has a seat of its own, so that threads may share a model.
    """

    def __init__(self, sites: tuple[str, ...], cached: CachedParts) -> None:
        self.sites = sites
        self.cached: CachedParts = cached
        self._of_thread = threading.local()
        self._taken: set[DQARController] = set()
        self._lock = threading.Lock()
        self.is_taken = False
        """Whether a run sits here in any thread; a plain value, which compiled code can guard."""

    def __reduce__(self) -> tuple:
        # A copy is another seat, and empty: threads and their locks are not copied.
        return RunSlot, (self.sites, self.cached)

    @property
    def run(self) -> Run | None:
        """What this thread runs."""
        return getattr(self._of_thread, "run", None)

    @property
    def acting(self) -> DQARController | None:
        """The controller of this thread's run, unless it leaves this step to the model."""
        run = self.run
        return None if run is None or run.controller.is_idle else run.controller

    @contextmanager
    def taken_by(self, run: Run) -> Iterator[None]:
        """Seat a run in this thread, in place of what it runs already.

        Raises:
            ValueError: if the controller runs already, in this or another thread.
        """
        with self._lock:
            if run.controller in self._taken:
                raise ValueError(
                    "A controller must serve one run at a time. Got one that is running. "
                    "Pass each run a controller= of its own."
                )
            self._taken.add(run.controller)
            self.is_taken = True
        earlier = self.run
        self._of_thread.run = run
        try:
            yield
        finally:
            self._of_thread.run = earlier
            with self._lock:
                self._taken.discard(run.controller)
                self.is_taken = bool(self._taken)
