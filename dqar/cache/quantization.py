"""How a cached tensor is stored: as floats, or as symmetric integers of 8, 4 or 2 bits.

The reference, which allocates and says what is meant; :mod:`dqar.cache.kernels` gives the same bits
in fewer passes and in place.

The seeds' formula over a group of values: ``q = clip(round(x / s), -qmax, qmax)`` with
``s = max|x| / qmax`` and ``qmax`` = 127, 7 or 1, so that no value in range is off by more than
``s / 2``. A group never crosses a batch row, so that one sample never depends on its batch mates.

Out of range: a scale stays within what float32 can divide by and multiply with, so that zeros and
extreme magnitudes come back finite. What the stored or the returned dtype cannot hold, an infinity
included, becomes the largest value that it can. NaN stays NaN, and in an integer format takes its
group with it: a sample that diverged is seen to have diverged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

CacheDtype = Literal["fp32", "fp16", "bf16", "int8", "int4", "int2"]
"""How a cached value is stored. int4 lies two to a byte, int2 four, along the last axis."""

Granularity = Literal["per_tensor", "per_channel", "per_head"]
"""What shares a scale, within a row: everything; a channel of the last axis over all tokens; a
head, which is one of ``num_heads`` equal runs of the last axis, over all tokens."""

FLOATS: dict[CacheDtype, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
BITS: dict[CacheDtype, int] = {"int8": 8, "int4": 4, "int2": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheFormat:
    """How a cached tensor is stored. Mixed K16/V8 is one format for keys, another for values."""

    dtype: CacheDtype = "int8"
    """Of the stored values."""
    granularity: Granularity = "per_tensor"
    """Of the scales of an integer dtype; floats have none."""
    num_heads: int = 1
    """For ``per_head`` only: a divisor of the last axis."""

    def __post_init__(self) -> None:
        for name, choices in (("dtype", CacheDtype), ("granularity", Granularity)):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise ValueError(
                    f"{name} must be one of {get_args(choices)}. Got {value!r}. Pass one of them."
                )
        if self.num_heads < 1:
            raise ValueError(
                f"num_heads must be positive. Got {self.num_heads=}. Pass the model's heads."
            )

    def num_groups(self, shape: tuple[int, ...]) -> int:
        """Scales along the last axis of a value of this shape: 1, its width or its heads."""
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
                "Pass the model's heads."
            )
        return groups


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedTensor:
    """A stored tensor, with all that :func:`dequantize` needs."""

    values: Shaped[Tensor, "r *packed"]
    """Floats, int8, or bytes that hold int4 or int2."""
    scale: Float[Tensor, "r *groups"] | None
    """float32, one a group: the value's axes, with 1 for tokens and the groups last. None for
    floats."""
    dtype: torch.dtype
    """The dtype that :func:`dequantize` returns."""
    axes: tuple[int, ...]
    """Shape of a row. Its last is the width before packing."""
    form: CacheFormat
    """How ``values`` is stored."""
    balance: Float[Tensor, " d"] | None = None
    """Factors that the value was multiplied by before it was quantised."""

    @property
    def nbytes(self) -> int:
        """Bytes held: packed values and scales. ``balance`` is left out, since entries share it."""
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)


def quantize(
    value: Float[Tensor, "r *axes"],
    form: CacheFormat,
    balance: Float[Tensor, " d"] | None = None,
) -> QuantizedTensor:
    """Store a copy of ``value``, without its graph and without waiting for the device.

    The round trip is within half a scale for integers, within ``scale / (2 * balance)`` where
    balanced, and then within the rounding of the dtype that comes back.

    Args:
        balance: positive factors of the last axis, such as
            :func:`dqar.cache.salience_balancing.balance_factors`, on the value's device. The value
            is multiplied by them before its scale is taken and divided by them when it is read.
            Floats ignore them; with ``per_channel`` scales they cancel.

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
    """The tensor as it can be used again, in the shape and dtype it was given in. Not to be
    written to: floats stored in their own dtype are handed out as they are."""
    if stored.scale is None:
        as_given = stored.values.dtype == stored.dtype
        return stored.values if as_given else saturate_(stored.values.to(stored.dtype))
    value = _unpack(stored.values, BITS[stored.form.dtype], stored.axes)
    _grouped(value, stored.scale.shape[-1]).mul_(stored.scale.unsqueeze(-1))
    if stored.balance is not None:
        value.div_(stored.balance)
    return saturate_(value.to(stored.dtype)).reshape(value.shape[0], *stored.axes)


def write_rows(stored: QuantizedTensor, fresh: QuantizedTensor, rows: Int[Tensor, " s"]) -> None:
    """Overwrite some rows of ``stored`` in place, as if the merged tensor had been quantised.
    Both must be in one format and balanced alike; ``rows`` holds each row at most once."""
    stored.values.index_copy_(0, rows, fresh.values)
    if stored.scale is not None and fresh.scale is not None:
        stored.scale.index_copy_(0, rows, fresh.scale)


def saturate_(value: Tensor) -> Tensor:
    """Infinities to the dtype's largest values, in place. After a cast rather than before it: in
    bfloat16 the bound of float16 would itself round up to infinity."""
    largest = torch.finfo(value.dtype).max
    return value.clamp_(-largest, largest)


def _balanced(value: Tensor, balance: Tensor | None) -> Tensor:
    """float32 with a last axis of channels, which a row of one number lacks."""
    rows = value.detach().float()
    rows = rows.unsqueeze(-1) if rows.ndim == 1 else rows
    if balance is None:
        return rows
    if balance.shape != rows.shape[-1:]:
        raise ValueError(
            f"balance must hold one factor a channel. Got {balance.shape=}, {value.shape=}. "
            "Pass factors of the last axis."
        )
    return rows * balance.float()


def _grouped(rows: Tensor, num_groups: int) -> Float[Tensor, "r *tokens g c"]:
    return rows.unflatten(-1, (num_groups, -1))


def _scale(grouped: Float[Tensor, "r *tokens g c"], bits: int) -> Float[Tensor, "r *ones g 1"]:
    shared = [axis for axis in range(1, grouped.ndim) if axis != grouped.ndim - 2]
    return scale_of(grouped.abs().amax(dim=shared, keepdim=True), bits)


def scale_of(largest: Float[Tensor, "*groups"], bits: int) -> Float[Tensor, "*groups"]:
    """Scale of groups whose largest magnitudes are given, in float32."""
    # From below: zeros would divide by zero, and any positive scale stores them exactly.
    # From above: qmax * s must not round past float32; 0.1% short of it is within s / 2.
    return largest.clamp(1e-30, 3.4e38) / largest_code(bits)


def _codes(grouped: Tensor, scale: Tensor, bits: int) -> Float[Tensor, "r *tokens d"]:
    largest = largest_code(bits)
    codes = (grouped / scale).round_().clamp_(-largest, largest)
    # What an integer cast makes of NaN is undefined and could spoil the rest of a byte. Its
    # scale is NaN and brings it back.
    return codes.nan_to_num_(0.0).flatten(-2)


def largest_code(bits: int) -> int:
    """Codes lie between this and its negative."""
    return 2 ** (bits - 1) - 1


def _pack(codes: Float[Tensor, "*axes d"], bits: int) -> Shaped[Tensor, "*axes packed"]:
    """Codes side by side in bytes, the first in the lowest bits; the last byte filled up."""
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
