"""Quantised tensors overwritten in place and read back, in few passes over memory.

The same bits as the reference, :mod:`dqar.cache.quantization`, which also does what is rare: int2,
odd widths of int4, salience balance. On a CPU a pass over memory is what costs, and a fresh page
more than that, so that nothing is allocated that is kept. On a GPU a launch is: with one scale a
row :mod:`dqar.cache.triton_kernels` does it in one or two, where Triton is installed.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from jaxtyping import Float, Int, Int8, Shaped, UInt8
from torch import Tensor

from dqar.cache.forecast import Factor, beside, divided_difference, forecast
from dqar.cache.quantization import (
    BITS,
    FLOATS,
    QuantizedTensor,
    dequantize,
    largest_code,
    quantize,
    saturate_,
    scale_of,
    write_rows,
)
from dqar.cache.triton_kernels import fetch_codes, is_proven, overwrite_codes


def overwrite(stored: QuantizedTensor, value: Float[Tensor, "r *axes"]) -> None:
    """Store ``value`` where ``stored`` lies, as :func:`quantize` would store it anew.

    Args:
        stored: of a value of the same shape, dtype and device; its addresses stay.
    """
    value = value.detach()
    if stored.scale is None:
        _overwrite_floats(stored.values, value)
    elif _is_plain(stored):
        is_fused = value.is_contiguous() and _is_fused(stored)
        write = overwrite_codes if is_fused else _overwrite_codes
        write(stored.values, stored.scale, value, BITS[stored.form.dtype])
    else:
        fresh = quantize(value, stored.form, stored.balance)
        _copy(fresh, stored)


def overwrite_rows(
    stored: QuantizedTensor, value: Float[Tensor, "s *axes"], rows: Int[Tensor, " s"]
) -> None:
    """:func:`overwrite` for some rows, each named at most once."""
    fresh = _blank(stored, len(value))
    overwrite(fresh, value)
    write_rows(stored, fresh, rows)


def duplicate(stored: QuantizedTensor, room: QuantizedTensor | None) -> QuantizedTensor:
    """A copy of ``stored`` with tensors of its own: those of ``room``, if they hold the like."""
    if room is None or not is_alike(room, stored):
        room = _blank(stored, len(stored.values))
    _copy(stored, room)
    return room


def fetch(stored: QuantizedTensor) -> Float[Tensor, "r *axes"]:
    """:func:`dequantize`. Floats stored in their own dtype are handed out as they are."""
    if stored.scale is None or not _is_plain(stored):
        return dequantize(stored)
    if _is_fused(stored):
        return fetch_codes(stored)
    codes, scale = _groups(stored, stored.scale)
    # One pass: the multiplication casts. In float32 no product is out of range (see scale_of).
    value = torch.mul(codes, scale).flatten(-2)
    return value if stored.dtype == torch.float32 else saturate_(value.to(stored.dtype))


def continued(
    value: Float[Tensor, "r *axes"], difference: QuantizedTensor, weight: Factor
) -> Float[Tensor, "r *axes"]:
    """:func:`forecast` of one order, in a pass that reads the codes themselves.

    Args:
        value: fetched from a tensor stored in the difference's format; what is not a float there
            is the reader's own, and overwritten.
    """
    if difference.scale is None or not _is_plain(difference):
        return forecast(value, [fetch(difference)], [weight])
    codes, scale = _groups(difference, difference.scale)
    weighed = scale * (beside(weight, scale) if isinstance(weight, Tensor) else weight)
    value.unflatten(-1, (codes.shape[-2], -1)).addcmul_(codes, weighed)
    return value


def divided(
    value: Float[Tensor, "r *axes"], earlier: QuantizedTensor, rate: Factor
) -> Float[Tensor, "r *axes"]:
    """:func:`divided_difference` from what is stored, likewise."""
    if earlier.scale is None or not _is_plain(earlier):
        return divided_difference(value, fetch(earlier), rate)
    codes, scale = _groups(earlier, earlier.scale)
    groups = value.unflatten(-1, (codes.shape[-2], -1))
    change = torch.addcmul(groups, codes, scale, value=-1.0).flatten(-2).to(value.dtype)
    return change.mul_(beside(rate, change) if isinstance(rate, Tensor) else rate)


def take(stored: QuantizedTensor, rows: Int[Tensor, " s"]) -> QuantizedTensor:
    """A copy of some rows."""
    scale = None if stored.scale is None else stored.scale[rows]
    return replace(stored, values=stored.values[rows], scale=scale)


def is_alike(one: QuantizedTensor, other: QuantizedTensor) -> bool:
    """Whether what one holds can be copied into the other's tensors."""
    same_values = one.values.shape == other.values.shape and one.values.dtype == other.values.dtype
    same_device = one.values.device == other.values.device
    same_meaning = (one.form, one.dtype, one.axes) == (other.form, other.dtype, other.axes)
    return same_values and same_device and same_meaning and one.balance is other.balance


def _is_plain(stored: QuantizedTensor) -> bool:
    """Whether the fast path applies."""
    if stored.balance is not None or not stored.axes or stored.dtype not in FLOATS.values():
        return False
    # Two codes of int4 are handled as one 16-bit word, the first in its lower byte.
    is_paired = stored.axes[-1] % 2 == 0 and sys.byteorder == "little"
    return stored.form.dtype == "int8" or (stored.form.dtype == "int4" and is_paired)


def _is_fused(stored: QuantizedTensor) -> bool:
    """Whether the Triton kernels apply to what is plain."""
    values, scale = stored.values, stored.scale
    if not values.is_cuda or scale is None or scale.shape[-1] > 1 or not values.numel():
        return False
    return values.is_contiguous() and is_proven(values.device)


def _groups(stored: QuantizedTensor, scale: Tensor) -> tuple[Int8[Tensor, "r *tokens g c"], Tensor]:
    """Codes by group, and the scales beside them."""
    codes = stored.values if stored.form.dtype == "int8" else _unpacked(stored.values)
    return codes.unflatten(-1, (scale.shape[-1], -1)), scale.unsqueeze(-1)


def _blank(stored: QuantizedTensor, num_rows: int) -> QuantizedTensor:
    """Tensors for another number of rows of the same, not written yet."""
    scale = stored.scale
    return replace(
        stored,
        values=stored.values.new_empty(num_rows, *stored.values.shape[1:]),
        scale=None if scale is None else scale.new_empty(num_rows, *scale.shape[1:]),
    )


def _copy(fresh: QuantizedTensor, stored: QuantizedTensor) -> None:
    stored.values.copy_(fresh.values)
    if stored.scale is not None and fresh.scale is not None:
        stored.scale.copy_(fresh.scale)


def _overwrite_floats(stored: Tensor, value: Tensor) -> None:
    if stored.dtype == value.dtype:
        largest = torch.finfo(value.dtype).max
        torch.clamp(value, -largest, largest, out=stored)
    else:
        saturate_(stored.copy_(value))


def _overwrite_codes(stored: Tensor, scale: Tensor, value: Tensor, bits: int) -> None:
    groups = value.unflatten(-1, (scale.shape[-1], -1))
    shared = [axis for axis in range(1, groups.ndim) if axis != groups.ndim - 2]
    room = groups.abs()
    fresh = scale_of(room.amax(dim=shared, keepdim=True).float(), bits)
    scale.copy_(fresh.squeeze(-1))
    # In the magnitudes' place, where they are as wide.
    codes = torch.div(groups, fresh, out=room if room.dtype == torch.float32 else None)
    largest = largest_code(bits)
    codes = codes.round_().clamp_(-largest, largest).nan_to_num_(0.0).flatten(-2)
    stored.copy_(codes if bits == 8 else _packed(codes.add_(largest)))


def _packed(offset: Float[Tensor, "*axes d"]) -> Shaped[Tensor, "*axes d/2"]:
    """Codes of int4, offset to 0..14, two to a word: the second belongs 4 bits above the first,
    and lies 8 above. The upper byte is left over; a cast to bytes drops it."""
    words = offset.to(torch.uint8, memory_format=torch.contiguous_format).view(torch.int16)
    return words >> 4 | words


def _unpacked(packed: UInt8[Tensor, "*axes p"]) -> Int8[Tensor, "*axes d"]:
    words = packed.to(torch.int16, memory_format=torch.contiguous_format)
    words = (words << 4).bitwise_or_(words).bitwise_and_(0x0F0F)
    return words.view(torch.int8).sub_(largest_code(4))
