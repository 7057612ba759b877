"""Cached values: ``(site, layer, branch)`` to quantised tensors, one row a sample and branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.cache.forecast import Factor
from dqar.cache.kernels import (
    continued,
    divided,
    duplicate,
    fetch,
    overwrite,
    overwrite_rows,
    take,
)
from dqar.cache.quantization import CacheFormat, QuantizedTensor, quantize
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

    @classmethod
    def of(cls, parts: Mapping[str, Tensor]) -> CachedValue:
        """The parts by name."""
        return cls(keys=parts.get("keys"), values=parts.get("values"), output=parts.get("output"))


class ReuseCache:
    """Quantised tensors by entry. It stores and returns; it decides nothing.

    An entry's tensors are allocated when it is first stored, and written in place from then on
    for as long as what is stored keeps its shape, dtype and device: their addresses are stable.

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
        if rows is not None:
            for name, value in parts.items():
                overwrite_rows(self._parts[key][name], value, rows)
            return
        earlier = self._parts.get(key, {})
        self._parts[key] = {
            name: self._stored(PartKey(key.site, key.layer, name), value, earlier.get(name))
            for name, value in parts.items()
        }

    def _stored(
        self, part: PartKey, value: Tensor, room: QuantizedTensor | None
    ) -> QuantizedTensor:
        form, balance = self._form(part.part, value), self.balance.get(part)
        if room is None or not _fits(room, value, form, balance):
            return quantize(value, form, balance)
        overwrite(room, value)
        return room

    def _form(self, name: str, value: Tensor) -> CacheFormat:
        form = self.formats[name]
        return BFLOAT16 if form.dtype == "fp16" and value.dtype == torch.bfloat16 else form

    def lend(self, key: EntryKey, borrower: EntryKey) -> None:
        """Let another entry hold what this one holds now, in tensors of its own."""
        room = self._parts.get(borrower, {})
        self._parts[borrower] = {
            name: duplicate(part, room.get(name)) for name, part in self._parts[key].items()
        }

    def fetch(self, key: EntryKey) -> CachedValue:
        """The parts of an entry, dequantised, all rows: the caller's own."""
        stored = self._parts[key]
        found = {name: _owned(part, stored[name]) for name, part in self.read(key).items()}
        return CachedValue.of(found)

    def read(self, key: EntryKey) -> dict[str, Tensor]:
        """The parts of an entry, dequantised, all rows. Not to be written to, and good until the
        entry is stored again: a float cache hands out the tensors that it stores."""
        return {name: fetch(part) for name, part in self._parts[key].items()}

    def continued(
        self, key: EntryKey, parts: dict[str, Tensor], weight: Factor
    ) -> dict[str, Tensor]:
        """Parts that another cache of the same formats read, plus ``weight`` times those of this
        one's entry."""
        stored = self._parts[key]
        return {name: continued(value, stored[name], weight) for name, value in parts.items()}

    def divided(
        self, key: EntryKey, parts: dict[str, Tensor], rate: Factor, rows: Int[Tensor, " s"] | None
    ) -> dict[str, Tensor]:
        """The divided differences of parts from those of an entry, or of some rows of it."""
        stored = self._parts[key]
        if rows is not None:
            stored = {name: take(part, rows) for name, part in stored.items()}
        return {name: divided(value.detach(), stored[name], rate) for name, value in parts.items()}

    def num_rows(self, key: EntryKey) -> int:
        """Rows of an entry."""
        return len(next(iter(self._parts[key].values())).values)

    def holds_like(self, key: EntryKey, parts: dict[str, Tensor]) -> bool:
        """Whether an entry holds the same parts, in the same shapes and dtypes."""
        held = {
            name: (torch.Size([len(part.values), *part.axes]), part.dtype)
            for name, part in self._parts.get(key, {}).items()
        }
        return held == {name: (value.shape, value.dtype) for name, value in parts.items()}


def _fits(room: QuantizedTensor, value: Tensor, form: CacheFormat, balance: Tensor | None) -> bool:
    """Whether a value can be written where another of its part lies."""
    if room.values.is_inference() and not torch.is_inference_mode_enabled():
        return False  # torch refuses to write to it here
    same_shape = len(room.values) == len(value) and room.axes == tuple(value.shape[1:])
    same_place = room.values.device == value.device and room.balance is balance
    return same_shape and same_place and (room.form, room.dtype) == (form, value.dtype)


def _owned(value: Tensor, stored: QuantizedTensor) -> Tensor:
    return value.clone() if value is stored.values else value
