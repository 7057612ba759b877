"""What reuse has of an entry's past: its last value, and its differences up to an order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dqar.cache.cache import Balance, CachedValue, ReuseCache
from dqar.cache.forecast import Factor
from dqar.cache.forecast_coefficients import Coefficients
from dqar.cache.quantization import CacheFormat
from dqar.cache.site_tensors import Parts
from dqar.records import EntryKey


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """One cache of values, and one of divided differences for each order.

    Differences are stored in their value's format, each with scales of its own, since they are
    much smaller. They are balanced by the value's factors: a channel's consumer weighs an error of
    the difference as it does one of the value.
    """

    values: ReuseCache
    """The values as they were computed."""
    differences: tuple[ReuseCache, ...] = ()
    """Of the first order, then of the second."""

    @classmethod
    def of(cls, formats: Mapping[str, CacheFormat], balance: Balance | None, order: int) -> History:
        """An empty one that keeps differences up to an order."""
        values, *differences = (ReuseCache(formats, balance) for _ in range(order + 1))
        return cls(values=values, differences=tuple(differences))

    def __contains__(self, key: EntryKey) -> bool:
        return key in self.values

    @property
    def nbytes(self) -> int:
        """Bytes of all values and differences, scales included."""
        return sum(cache.nbytes for cache in (self.values, *self.differences))

    def read(self, key: EntryKey, coefficients: Coefficients | None = None) -> Parts:
        """The parts of an entry, forecast where there are coefficients, as they were computed where
        not. Not to be written to, and good until the entry is stored again."""
        parts = self.values.read(key)
        if coefficients is None:
            return parts
        weights = coefficients.weights(self.values.num_rows(key), _device(parts))
        for cache, weight in zip(self.differences, weights, strict=False):
            if isinstance(weight, Tensor) or weight:
                parts = cache.continued(key, parts, weight)
        return parts

    def fetch(self, key: EntryKey, coefficients: Coefficients | None = None) -> CachedValue:
        """:meth:`read`, the caller's own; a part that was not cached is None."""
        if coefficients is None:
            return self.values.fetch(key)
        read = self.read(key, coefficients)
        return CachedValue.of({name: value.clone() for name, value in read.items()})

    def store(
        self,
        key: EntryKey,
        parts: Parts,
        coefficients: Coefficients | None = None,
        rows: Int[Tensor, " s"] | None = None,
        continued: Int[Tensor, " s"] | None = None,
    ) -> None:
        """Store what was computed, with its differences from what was held until now.

        Args:
            coefficients: those of the step; None starts the entry's past anew.
            rows: those that ``parts`` holds, of an entry that exists; all by default.
            continued: the row whose past each of them continues; its own by default.
        """
        past = rows if continued is None else continued
        caches, fresh = (self.values, *self.differences), parts
        for cache, rate in zip(caches, self._rates(key, parts, coefficients, past), strict=False):
            change = _nothing(fresh) if rate is None else cache.divided(key, fresh, rate, past)
            cache.store(key, fresh, rows)
            fresh = change
        caches[-1].store(key, fresh, rows)

    def _rates(
        self,
        key: EntryKey,
        parts: Parts,
        coefficients: Coefficients | None,
        rows: Int[Tensor, " s"] | None,
    ) -> tuple[Factor | None, ...]:
        """Of each order; None where there is no past to continue."""
        is_known = rows is not None or self.values.holds_like(key, parts)
        if not self.differences or coefficients is None or not is_known:
            return (None,) * len(self.differences)
        return coefficients.rates(self.values.num_rows(key), _device(parts), rows)

    def lend(self, key: EntryKey, borrower: EntryKey) -> None:
        """Let another entry hold what this one holds now, its past included."""
        for cache in (self.values, *self.differences):
            cache.lend(key, borrower)


def _nothing(parts: Parts) -> Parts:
    return {name: torch.zeros_like(value) for name, value in parts.items()}


def _device(parts: Parts) -> torch.device:
    return next(iter(parts.values())).device
