"""The name that a pipeline gives a call by ``transformer.cache_context``, as diffusers' hooks."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class CacheContextName:
    """A replacement of a transformer's ``cache_context`` that also keeps the name for this thread.

    A deep copy or a pickle of the transformer has the original.
    """

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer
        self.inner: Any = getattr(transformer, "cache_context", None)
        self._of_thread = threading.local()
        if self.inner is not None:
            transformer.__dict__["cache_context"] = self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.inner, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)

    @property
    def name(self) -> str | None:
        """Name of this thread's call; None outside a context."""
        return getattr(self._of_thread, "name", None)

    @contextmanager
    def __call__(self, name: str, **fields: Any) -> Iterator[None]:
        before, self._of_thread.name = self.name, name
        try:
            with self.inner(name, **fields):
                yield
        finally:
            self._of_thread.name = before

    def restore(self) -> None:
        """Put the original back."""
        if self.inner is None or self.transformer.__dict__.get("cache_context") is not self:
            return
        if isinstance(self.inner, CacheContextName):
            self.transformer.__dict__["cache_context"] = self.inner
        else:
            del self.transformer.__dict__["cache_context"]
