"""Cached values: ``(site, layer, branch)`` to quantised tensors, one row a sample and branch."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from dqar.quantization import CacheDtype, QuantizedTensor, dequantize, quantize
from dqar.records import EntryKey


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedValue:
    """What :meth:`ReuseCache.fetch` returns; a part that was not cached is None."""

    keys: Tensor | None
    values: Tensor | None
    output: Tensor | None


class ReuseCache:
    """Quantised tensors by entry. It stores and returns; it decides nothing."""

    def __init__(self, cache_dtype: CacheDtype) -> None:
        self.cache_dtype: CacheDtype = cache_dtype
        self._parts: dict[EntryKey, dict[str, QuantizedTensor]] = {}

    def __contains__(self, key: EntryKey) -> bool:
        return key in self._parts

    @property
    def nbytes(self) -> int:
        """Bytes of all entries, scales included."""
        return sum(part.nbytes for entry in self._parts.values() for part in entry.values())

    def store(
        self, key: EntryKey, parts: dict[str, Tensor], rows: Int[Tensor, " s"] | None = None
    ) -> None:
        """Store named parts (``keys``, ``values``, ``output``); with ``rows``, only those rows
        of an entry that already exists."""
        entry = self._parts.setdefault(key, {})
        for name, value in parts.items():
            if rows is None:
                entry[name] = quantize(value, self.cache_dtype)
            else:
                _write_rows(entry[name], quantize(value, self.cache_dtype), rows)

    def fetch(self, key: EntryKey) -> CachedValue:
        """The parts of an entry, dequantised, all rows: copies, the caller's own."""
        entry = self._parts[key]
        found = {name: dequantize(part).clone() for name, part in entry.items()}
        return CachedValue(
            keys=found.get("keys"), values=found.get("values"), output=found.get("output")
        )

    def fetch_output(self, key: EntryKey) -> Float[Tensor, "r n d"]:
        """The cached output, dequantised, all rows. Not to be written to: a float cache hands
        out the tensor that it stores."""
        return dequantize(self._parts[key]["output"])

    def clear(self) -> None:
        """Forget every entry."""
        self._parts.clear()


def _write_rows(stored: QuantizedTensor, fresh: QuantizedTensor, rows: Tensor) -> None:
    stored.values.index_copy_(0, rows, fresh.values)
    if stored.scale is not None and fresh.scale is not None:
        stored.scale.index_copy_(0, rows, fresh.scale)
