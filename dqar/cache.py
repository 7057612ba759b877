"""Cached values: ``(site, layer, branch)`` to quantised tensors, one row a sample and branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.quantization import CacheFormat, QuantizedTensor, dequantize, quantize, write_rows
from dqar.records import EntryKey, PartKey

Balance = Mapping[PartKey, Float[Tensor, " d"]]
"""Salience balance factors of a site's part, one a channel; parts left out have none."""

BFLOAT16 = CacheFormat(dtype="bf16")
"""16 bits of a model in bf16, whose range fp16 cannot hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedValue:
    """What :meth:`ReuseCache.fetch` returns; a part that was not cached is None."""

    keys: Tensor | None
    values: Tensor | None
    output: Tensor | None


class ReuseCache:
    """Quantised tensors by entry. It stores and returns; it decides nothing.

    Args:
        formats: how each part is stored.
        balance: shared by all entries, so that :attr:`nbytes` leaves it out.
    """

    def __init__(self, formats: Mapping[str, CacheFormat], balance: Balance | None = None) -> None:
        self.formats = formats
        self.balance = balance or {}
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
        of an entry that already exists. Without, nothing of an earlier entry is left."""
        stored = {name: self._quantize(key, name, value) for name, value in parts.items()}
        if rows is None:
            self._parts[key] = stored
            return
        for name, value in stored.items():
            write_rows(self._parts[key][name], value, rows)

    def _quantize(self, key: EntryKey, name: str, value: Tensor) -> QuantizedTensor:
        form = self.formats[name]
        if form.dtype == "fp16" and value.dtype == torch.bfloat16:
            form = BFLOAT16
        return quantize(value, form, self.balance.get(PartKey(key.site, key.layer, name)))

    def lend(self, key: EntryKey, borrower: EntryKey) -> None:
        """Let another entry hold what this one holds, until either is stored whole again."""
        self._parts[borrower] = dict(self._parts[key])

    def fetch(self, key: EntryKey) -> CachedValue:
        """The parts of an entry, dequantised, all rows: copies, the caller's own."""
        found = {name: part.clone() for name, part in self.read(key).items()}
        return CachedValue(
            keys=found.get("keys"), values=found.get("values"), output=found.get("output")
        )

    def read(self, key: EntryKey) -> dict[str, Tensor]:
        """The parts of an entry, dequantised, all rows. Not to be written to: a float cache
        hands out the tensors that it stores."""
        return {name: dequantize(part) for name, part in self._parts[key].items()}
