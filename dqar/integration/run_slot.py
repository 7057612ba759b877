"""The slot of a patched model that holds the current sampling run of each thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dqar.config import CachedParts
from dqar.control.controller import DQARController
from dqar.integration.step_counter import Run


class RunSlot:
    """The current run of each thread, shared by all patched sites of a model.

    Threads may share a model, since each thread sees only its own run. A thread without a run
    uses the model as if it were not patched.
    """

    def __init__(self, sites: tuple[str, ...], cached: CachedParts) -> None:
        self.sites = sites
        self.cached: CachedParts = cached
        self._of_thread = threading.local()
        self._taken: set[DQARController] = set()
        self._lock = threading.Lock()
        self._is_held = False
        self.is_taken = False
        """True if any thread has a run; a plain attribute, so that compiled code can guard it."""

    def __reduce__(self) -> tuple:
        # A copy is empty: runs and locks belong to threads and cannot be copied.
        return RunSlot, (self.sites, self.cached)

    @property
    def run(self) -> Run | None:
        """The run of this thread, or None."""
        return getattr(self._of_thread, "run", None)

    @property
    def acting(self) -> DQARController | None:
        """The controller of this thread's run; None without a run or if the controller is idle."""
        run = self.run
        return None if run is None or run.controller.is_idle else run.controller

    @contextmanager
    def taken_by(self, run: Run) -> Iterator[None]:
        """Make ``run`` the run of this thread, until the context ends.

        An outer run of the same thread is suspended meanwhile.

        Raises:
            ValueError: if the controller is in another run, in this or another thread.
        """
        with self._lock:
            if run.controller in self._taken:
                raise ValueError(
                    "A controller must serve one run at a time. Got one that is running. "
                    "Pass a separate controller= to each run."
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
                self.is_taken = self._is_held or bool(self._taken)

    def hold(self, run: Run | None) -> None:
        """Make ``run`` the run of this thread until another one is held; None ends it."""
        with self._lock:
            self._is_held = self.is_taken = True
        self._of_thread.run = run
