"""Storage of cached tensors: as floats, or as symmetric integers of 8, 4 or 2 bits.

This module is the reference implementation; :mod:`dqar.cache.kernels` gives the same bits in fewer
passes over memory, and in place.

A group of values is quantised by the DQAR paper's formula: ``q = clip(round(x / s), -qmax, qmax)``
with ``s = max|x| / qmax`` and ``qmax`` = 127, 7 or 1, so that the error of a value in range is at
most ``s / 2``. A group never crosses a batch row, so no sample depends on the rest of its batch.

Extreme values: a scale is clamped to the range in which float32 can divide by it and multiply with
it, so that zeros and extreme magnitudes come back finite. A value outside the range of the stored
or the returned dtype, including an infinity, becomes the largest finite value of that dtype. NaN
stays NaN, and in an integer format makes its whole group NaN, so that a diverged sample stays
recognisable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

CacheDtype = Literal["fp32", "fp16", "bf16", "int8", "int4", "int2"]
"""Storage types of a cached value. Two int4 or four int2 values share a byte on the last axis."""

Granularity = Literal["per_tensor", "per_channel", "per_head"]
"""The values of a batch row that share a scale: all of them; one channel of the last axis, over all
tokens; or one attention head, which is one of ``num_heads`` equal slices of the last axis, over all
tokens."""

FLOATS: dict[CacheDtype, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
BITS: dict[CacheDtype, int] = {"int8": 8, "int4": 4, "int2": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheFormat:
    """The storage format of a cached tensor. Mixed K16/V8 uses one format for keys and another for
    values."""

    dtype: CacheDtype = "int8"
    """Storage type of the values."""
    granularity: Granularity = "per_tensor"
    """Granularity of the scales of an integer type; floats have no scales."""
    num_heads: int = 1
    """Number of attention heads, for ``per_head`` only; must divide the last axis."""

    def __post_init__(self) -> None:
        for name, choices in (("dtype", CacheDtype), ("granularity", Granularity)):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise ValueError(
                    f"{name} must be one of {get_args(choices)}. Got {value!r}. Pass one of them."
                )
        if self.num_heads < 1:
            raise ValueError(
                f"num_heads must be positive. Got {self.num_heads=}. Pass the model's number of "
                "heads."
            )

    def num_groups(self, shape: tuple[int, ...]) -> int:
        """Number of scales along the last axis of a value: 1, its width, or ``num_heads``.

        Raises:
            ValueError: if the granularity does not fit the shape.
        """
        if self.granularity == "per_tensor":
            return 1
        if len(shape) < 3:
            raise ValueError(
                f"{self.granularity} scales must have rows, tokens and channels. Got {shape=}. "
                "Pass three axes or more, or per_tensor."
            )
        groups = self.num_heads if self.granularity == "per_head" else shape[-1]
        if shape[-1] % groups:
            raise ValueError(
                f"num_heads must divide the last axis. Got {groups=}, {shape=}. "
                "Pass the model's number of heads."
            )
        return groups


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedTensor:
    """A stored tensor, and everything that :func:`dequantize` needs to read it."""

    values: Shaped[Tensor, "r *packed"]
    """Floats, int8 codes, or bytes that hold packed int4 or int2 codes."""
    scale: Float[Tensor, "r *groups"] | None
    """One float32 scale for each group: the value's axes, with 1 for tokens and the number of
    groups last. None for floats."""
    dtype: torch.dtype
    """The dtype that :func:`dequantize` returns."""
    axes: tuple[int, ...]
    """Shape of one row of the value before packing."""
    form: CacheFormat
    """Storage format of ``values``."""
    balance: Float[Tensor, " d"] | None = None
    """Factors by which the value's channels were multiplied before quantisation."""

    @property
    def nbytes(self) -> int:
        """Bytes of packed values and scales, without ``balance``, which all entries share."""
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)


def quantize(
    value: Float[Tensor, "r *axes"],
    form: CacheFormat,
    balance: Float[Tensor, " d"] | None = None,
) -> QuantizedTensor:
    """Store a copy of ``value``, detached from autograd and without waiting for the device.

    For integers the error of the round trip is at most half a scale, or ``scale / (2 * balance)``
    with balance factors, plus the rounding of the returned dtype.

    Args:
        balance: positive factors of the last axis on the value's device, such as those of
            :func:`dqar.cache.salience_balancing.balance_factors`. The value is multiplied by the
            factors before its scale is taken, and divided by them when it is read. Float formats
            ignore the factors; with ``per_channel`` scales they cancel.

    Raises:
        ValueError: if the scales or the factors do not fit the value's axes.
    """
    axes = tuple(value.shape[1:])
    if form.dtype in FLOATS:
        stored = saturate_(value.detach().to(FLOATS[form.dtype], copy=True))
        return QuantizedTensor(values=stored, scale=None, dtype=value.dtype, axes=axes, form=form)
    bits = BITS[form.dtype]
    grouped = _grouped(_balanced(value, balance), form.num_groups(tuple(value.shape)))
    scale = _scale(grouped, bits)
    return QuantizedTensor(
        values=_pack(_codes(grouped, scale, bits), bits),
        scale=scale.squeeze(-1),
        dtype=value.dtype,
        axes=axes,
        form=form,
        balance=balance,
    )


def dequantize(stored: QuantizedTensor) -> Float[Tensor, "r *axes"]:
    """Return the stored tensor in the shape and dtype in which it was given. Do not write to the
    result: floats stored in their own dtype are returned without a copy."""
    if stored.scale is None:
        as_given = stored.values.dtype == stored.dtype
        return stored.values if as_given else saturate_(stored.values.to(stored.dtype))
    value = _unpack(stored.values, BITS[stored.form.dtype], stored.axes)
    _grouped(value, stored.scale.shape[-1]).mul_(stored.scale.unsqueeze(-1))
    if stored.balance is not None:
        value.div_(stored.balance)
    return saturate_(value.to(stored.dtype)).reshape(value.shape[0], *stored.axes)


def write_rows(stored: QuantizedTensor, fresh: QuantizedTensor, rows: Int[Tensor, " s"]) -> None:
    """Overwrite some rows of ``stored`` in place; the result equals quantising the merged tensor.
    Both tensors must have the same format and balance; ``rows`` holds each row at most once."""
    stored.values.index_copy_(0, rows, fresh.values)
    if stored.scale is not None and fresh.scale is not None:
        stored.scale.index_copy_(0, rows, fresh.scale)


def saturate_(value: Tensor) -> Tensor:
    """Clamp infinities to the dtype's largest finite values, in place.

    Call it after a cast: before a cast from bfloat16 to float16, the bound 65504 would round to
    65536 in bfloat16, which becomes infinity in float16.
    """
    largest = torch.finfo(value.dtype).max
    return value.clamp_(-largest, largest)


def _balanced(value: Tensor, balance: Tensor | None) -> Tensor:
    """Cast to float32 and multiply by the balance; a value of one axis gets a channel axis."""
    rows = value.detach().float()
    rows = rows.unsqueeze(-1) if rows.ndim == 1 else rows
    if balance is None:
        return rows
    if balance.shape != rows.shape[-1:]:
        raise ValueError(
            f"balance must hold one factor a channel. Got {balance.shape=}, {value.shape=}. "
            "Pass one factor for each channel of the last axis."
        )
    return rows * balance.float()


def _grouped(rows: Tensor, num_groups: int) -> Float[Tensor, "r *tokens g c"]:
    return rows.unflatten(-1, (num_groups, -1))


def _scale(grouped: Float[Tensor, "r *tokens g c"], bits: int) -> Float[Tensor, "r *ones g 1"]:
    shared = [axis for axis in range(1, grouped.ndim) if axis != grouped.ndim - 2]
    return scale_of(grouped.abs().amax(dim=shared, keepdim=True), bits)


def scale_of(largest: Float[Tensor, "*groups"], bits: int) -> Float[Tensor, "*groups"]:
    """Return the float32 scales of groups, given their largest magnitudes."""
    # Lower bound: a scale of 0 would divide by zero; any positive scale stores zeros exactly.
    # Upper bound: qmax * s must not overflow float32; the 0.1% below its maximum is within s / 2.
    return largest.clamp(1e-30, 3.4e38) / largest_code(bits)


def _codes(grouped: Tensor, scale: Tensor, bits: int) -> Float[Tensor, "r *tokens d"]:
    largest = largest_code(bits)
    codes = (grouped / scale).round_().clamp_(-largest, largest)
    # An integer cast of NaN is undefined and could overwrite the other codes of a byte. The code
    # becomes 0; the group's scale is NaN, so the value reads back as NaN.
    return codes.nan_to_num_(0.0).flatten(-2)


def largest_code(bits: int) -> int:
    """Return ``qmax``: codes lie in ``[-qmax, qmax]``."""
    return 2 ** (bits - 1) - 1


def _pack(codes: Float[Tensor, "*axes d"], bits: int) -> Shaped[Tensor, "*axes packed"]:
    """Pack codes into bytes, the first in the lowest bits, and pad the last byte with 0 bits."""
    if bits == 8:
        return codes.to(torch.int8)
    in_byte = 8 // bits
    offset = (codes + largest_code(bits)).to(torch.uint8)
    slots = pad(offset, (0, -codes.shape[-1] % in_byte)).unflatten(-1, (-1, in_byte))
    packed = slots[..., 0].clone()
    for slot in range(1, in_byte):
        packed |= slots[..., slot] << bits * slot
    return packed


def _unpack(
    packed: Shaped[Tensor, "*axes packed"], bits: int, axes: tuple[int, ...]
) -> Float[Tensor, "*axes d"]:
    if bits == 8:
        return packed.float()
    slots = [packed >> start & (1 << bits) - 1 for start in range(0, 8, bits)]
    width = axes[-1] if axes else 1
    offset = torch.stack(slots, dim=-1).flatten(-2)[..., :width]
    return offset.float().sub_(largest_code(bits))
