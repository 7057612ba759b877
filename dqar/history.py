"""What reuse has of an entry's past: its last value, and its differences up to an order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dqar.cache import Balance, CachedValue, ReuseCache
from dqar.coefficients import Coefficients
from dqar.exchange import Parts
from dqar.forecast import Factor, divided_difference, forecast
from dqar.quantization import CacheFormat
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
        weights = () if coefficients is None else coefficients.weights(_any(parts))
        at_work = [
            (cache.read(key), weight)
            for cache, weight in zip(self.differences, weights, strict=False)
            if isinstance(weight, Tensor) or weight
        ]
        return {
            name: forecast(value, [kept[name] for kept, _ in at_work], [by for _, by in at_work])
            for name, value in parts.items()
        }

    def fetch(self, key: EntryKey, coefficients: Coefficients | None = None) -> CachedValue:
        """:meth:`read`, the caller's own; a part that was not cached is None."""
        if coefficients is None:
            return self.values.fetch(key)
        found = {name: value.clone() for name, value in self.read(key, coefficients).items()}
        return CachedValue(
            keys=found.get("keys"), values=found.get("values"), output=found.get("output")
        )

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
            coefficients: of the entry before; None starts its past anew.
            rows: those that ``parts`` holds, of an entry that exists; all by default.
            continued: the row whose past each of them continues; its own by default.
        """
        # All of them before anything is overwritten.
        changes = self._changes(key, parts, coefficients, rows if continued is None else continued)
        for cache, fresh in zip((self.values, *self.differences), (parts, *changes), strict=True):
            cache.store(key, fresh, rows)

    def _changes(
        self,
        key: EntryKey,
        parts: Parts,
        coefficients: Coefficients | None,
        rows: Int[Tensor, " s"] | None,
    ) -> list[Parts]:
        held = (self.values, *self.differences)[: len(self.differences)]
        past = [cache.read(key) for cache in held] if key in self.values else []
        is_continued = past and (rows is not None or _are_alike(past[0], parts))
        if not is_continued or coefficients is None:
            nothing = {name: torch.zeros_like(value) for name, value in parts.items()}
            return [nothing for _ in held]
        changes: list[Parts] = []
        for earlier, rate in zip(past, coefficients.rates(_any(past[0])), strict=True):
            changes.append(_divided(changes[-1] if changes else parts, earlier, rate, rows))
        return changes

    def lend(self, key: EntryKey, borrower: EntryKey) -> None:
        """Let another entry hold what this one holds now, its past included."""
        for cache in (self.values, *self.differences):
            cache.lend(key, borrower)


def _divided(later: Parts, earlier: Parts, rate: Factor, rows: Tensor | None) -> Parts:
    its_rate = rate if rows is None or not isinstance(rate, Tensor) else rate[rows]
    return {
        name: divided_difference(
            value.detach(), earlier[name] if rows is None else earlier[name][rows], its_rate
        )
        for name, value in later.items()
    }


def _are_alike(parts: Parts, others: Parts) -> bool:
    """Whether they are the same parts in the same shapes."""
    shapes, their_shapes = (
        {name: value.shape for name, value in of.items()} for of in (parts, others)
    )
    return shapes == their_shapes


def _any(parts: Parts) -> Tensor:
    return next(iter(parts.values()))
