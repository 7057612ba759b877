"""Where a running controller sits in a patched model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from dqar.config import CachedParts
from dqar.controller import DQARController


class Seat:
    """Where a running controller sits; empty between runs, and then the model is stock.

    Each thread has a seat of its own, so that threads may share a model.
    """

    def __init__(self, sites: tuple[str, ...], cached: CachedParts) -> None:
        self.sites = sites
        self.cached: CachedParts = cached
        self.modules: list[tuple[nn.Module, Any]] = []
        """Rerouted modules with the forward that reroutes them."""
        self._of_thread = threading.local()
        self._taken: set[DQARController] = set()
        self._lock = threading.Lock()

    @property
    def controller(self) -> DQARController | None:
        """The controller that this thread runs."""
        return getattr(self._of_thread, "controller", None)

    @property
    def acting(self) -> DQARController | None:
        """The same, unless it leaves this step to the model."""
        controller = self.controller
        return None if controller is None or controller.is_idle else controller

    @contextmanager
    def taken_by(self, controller: DQARController) -> Iterator[None]:
        """Run a controller in this thread, in place of what it runs already.

        Raises:
            ValueError: if the controller runs already, in this or another thread.
        """
        with self._lock:
            if controller in self._taken:
                raise ValueError(
                    "A controller must serve one run at a time. Got one that is running. "
                    "Pass each run a controller= of its own."
                )
            self._taken.add(controller)
        earlier = self.controller
        self._of_thread.controller = controller
        try:
            yield
        finally:
            self._of_thread.controller = earlier
            self._taken.discard(controller)
