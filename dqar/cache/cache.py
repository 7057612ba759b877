"""The cache of quantised tensors by ``(site, layer, branch)``, one row for each batch row."""

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
"""Salience balance factors by cached tensor, one factor for each channel
(:mod:`dqar.cache.salience_balancing`); a tensor without an entry is not balanced."""

BFLOAT16 = CacheFormat(dtype="bf16")
"""The 16-bit format of a model in bf16: fp16 cannot hold the range of its values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedValue:
    """The dequantised tensors of one cache entry; a part that was not cached is None."""

    keys: Tensor | None
    values: Tensor | None
    output: Tensor | None

    @classmethod
    def of(cls, parts: Mapping[str, Tensor]) -> CachedValue:
        """Make a value from its parts by name."""
        return cls(keys=parts.get("keys"), values=parts.get("values"), output=parts.get("output"))


class ReuseCache:
    """Quantised tensors by entry.

    An entry's tensors are allocated when it is first stored. Later values of the same shape, dtype
    and device are written in place, so that the addresses stay the same.

    Args:
        formats: storage format of each part (``keys``, ``values``, ``output``); further parts are
            stored like ``output``.
        balance: salience balance factors. :attr:`nbytes` leaves them out, since all entries share
            them.
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
        """Store named parts (``keys``, ``values``, ``output``). With ``rows``, overwrite only
        these rows of an existing entry; without, replace the whole entry."""
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
        self, part: PartKey, value: Tensor, target: QuantizedTensor | None
    ) -> QuantizedTensor:
        form, balance = self._form(part.part, value), self.balance.get(part)
        if target is None or not _fits(target, value, form, balance):
            return quantize(value, form, balance)
        overwrite(target, value)
        return target

    def _form(self, name: str, value: Tensor) -> CacheFormat:
        form = self.formats.get(name, self.formats["output"])
        return BFLOAT16 if form.dtype == "fp16" and value.dtype == torch.bfloat16 else form

    def lend(self, key: EntryKey, borrower: EntryKey) -> None:
        """Copy the entry ``key`` to the entry ``borrower``, into separate tensors."""
        target = self._parts.get(borrower, {})
        self._parts[borrower] = {
            name: duplicate(part, target.get(name)) for name, part in self._parts[key].items()
        }

    def fetch(self, key: EntryKey) -> CachedValue:
        """Return the parts of an entry, dequantised, all rows, in tensors that the caller owns."""
        stored = self._parts[key]
        found = {name: _owned(part, stored[name]) for name, part in self.read(key).items()}
        return CachedValue.of(found)

    def read(self, key: EntryKey) -> dict[str, Tensor]:
        """Return the parts of an entry, dequantised, all rows. A float cache returns the tensors
        that it stores: do not write to them, nor read them after the entry is stored again. With
        gradients enabled it returns copies, since autograd keeps them for the backward pass."""
        found = {name: fetch(part) for name, part in self._parts[key].items()}
        if not torch.is_grad_enabled():
            return found
        return {name: _owned(value, self._parts[key][name]) for name, value in found.items()}

    def continued(
        self, key: EntryKey, parts: dict[str, Tensor], weight: Factor
    ) -> dict[str, Tensor]:
        """Return ``parts + weight * entry``, one term of a forecast.

        Args:
            parts: tensors that another cache with the same formats read; they may be overwritten.
        """
        stored = self._parts[key]
        return {name: continued(value, stored[name], weight) for name, value in parts.items()}

    def divided(
        self, key: EntryKey, parts: dict[str, Tensor], rate: Factor, rows: Int[Tensor, " s"] | None
    ) -> dict[str, Tensor]:
        """Return the divided differences ``(parts - entry) * rate``.

        Args:
            rows: rows of the entry that ``parts`` corresponds to; all by default.
        """
        stored = self._parts[key]
        if rows is not None:
            stored = {name: take(part, rows) for name, part in stored.items()}
        return {name: divided(value.detach(), stored[name], rate) for name, value in parts.items()}

    def num_rows(self, key: EntryKey) -> int:
        """Number of rows of an entry."""
        return len(next(iter(self._parts[key].values())).values)

    def holds_like(self, key: EntryKey, parts: dict[str, Tensor]) -> bool:
        """True if an entry holds the same parts in the same shapes and dtypes."""
        held = {
            name: (torch.Size([len(part.values), *part.axes]), part.dtype)
            for name, part in self._parts.get(key, {}).items()
        }
        return held == {name: (value.shape, value.dtype) for name, value in parts.items()}


def _fits(
    target: QuantizedTensor, value: Tensor, form: CacheFormat, balance: Tensor | None
) -> bool:
    """True if ``value`` can be written into the tensors of ``target``, an earlier stored value."""
    if target.values.is_inference() and not torch.is_inference_mode_enabled():
        return False  # torch refuses to write to an inference tensor outside inference mode
    same_shape = len(target.values) == len(value) and target.axes == tuple(value.shape[1:])
    same_place = target.values.device == value.device and target.balance is balance
    return same_shape and same_place and (target.form, target.dtype) == (form, value.dtype)


def _owned(value: Tensor, stored: QuantizedTensor) -> Tensor:
    return value.clone() if value is stored.values else value
