"""The cached history of each entry: its last value and its divided differences up to an order."""

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
    """A cache of values, and one cache of divided differences for each forecast order.

    A difference is stored in the format of its value, but with separate scales, since differences
    are much smaller. The value's salience balance factors apply to its differences too: the
    module that reads a channel weighs errors of both equally.
    """

    values: ReuseCache
    """The values as they were last computed."""
    differences: tuple[ReuseCache, ...] = ()
    """The divided differences: first order, then second order."""

    @classmethod
    def of(cls, formats: Mapping[str, CacheFormat], balance: Balance | None, order: int) -> History:
        """Make an empty history that keeps differences up to ``order``."""
        values, *differences = (ReuseCache(formats, balance) for _ in range(order + 1))
        return cls(values=values, differences=tuple(differences))

    def __contains__(self, key: EntryKey) -> bool:
        return key in self.values

    @property
    def nbytes(self) -> int:
        """Bytes of all values and differences, scales included."""
        return sum(cache.nbytes for cache in (self.values, *self.differences))

    def read(self, key: EntryKey, coefficients: Coefficients | None = None) -> Parts:
        """Return the parts of an entry: with coefficients their forecast, without them the values
        as last computed. Do not write to them, nor read them after the entry is stored again."""
        parts = self.values.read(key)
        if coefficients is None:
            return parts
        weights = coefficients.weights(self.values.num_rows(key), _device(parts))
        for cache, weight in zip(self.differences, weights, strict=False):
            if isinstance(weight, Tensor) or weight:
                parts = cache.continued(key, parts, weight)
        return parts

    def fetch(self, key: EntryKey, coefficients: Coefficients | None = None) -> CachedValue:
        """Return the result of :meth:`read` in tensors that the caller owns; a part that was not
        cached is None."""
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
        """Store computed parts, and the divided differences from the values stored before.

        Args:
            coefficients: coefficients of the step; None sets all differences to zero.
            rows: rows of an existing entry that ``parts`` holds; all rows by default.
            continued: for each row of ``parts``, the row whose stored values the differences are
                taken from; the same row by default.
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
        """Rate of each order; None for an order where no earlier value is stored."""
        is_known = rows is not None or self.values.holds_like(key, parts)
        if not self.differences or coefficients is None or not is_known:
            return (None,) * len(self.differences)
        return coefficients.rates(self.values.num_rows(key), _device(parts), rows)

    def lend(self, key: EntryKey, borrower: EntryKey) -> None:
        """Copy the values and differences of the entry ``key`` to the entry ``borrower``."""
        for cache in (self.values, *self.differences):
            cache.lend(key, borrower)


def _nothing(parts: Parts) -> Parts:
    return {name: torch.zeros_like(value) for name, value in parts.items()}


def _device(parts: Parts) -> torch.device:
    return next(iter(parts.values())).device
