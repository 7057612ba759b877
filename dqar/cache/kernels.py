"""Write and read quantised tensors in place, with few passes over memory.

The results are equal to the bit to those of the reference, :mod:`dqar.cache.quantization`, which is
called for the rare formats: int2, int4 of odd width, salience balance. On a CPU the cost is passes
over memory and page faults of fresh memory, so nothing that stays allocated is allocated here.
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


def overwrite(stored: QuantizedTensor, value: Float[Tensor, "r *axes"]) -> None:
    """Write ``value`` into the tensors of ``stored``, with the result of :func:`quantize`.

    Args:
        stored: holds an earlier value of the same shape, dtype and device.
    """
    value = value.detach()
    if stored.scale is None:
        _overwrite_floats(stored.values, value)
    elif _is_plain(stored):
        _overwrite_codes(stored.values, stored.scale, value, BITS[stored.form.dtype])
    else:
        fresh = quantize(value, stored.form, stored.balance)
        _copy(fresh, stored)


def overwrite_rows(
    stored: QuantizedTensor, value: Float[Tensor, "s *axes"], rows: Int[Tensor, " s"]
) -> None:
    """Write ``value`` into some rows of ``stored``; ``rows`` holds each row at most once."""
    fresh = _blank(stored, len(value))
    overwrite(fresh, value)
    write_rows(stored, fresh, rows)


def duplicate(stored: QuantizedTensor, target: QuantizedTensor | None) -> QuantizedTensor:
    """Return a copy of ``stored``, in the tensors of ``target`` if they have the same layout."""
    if target is None or not is_alike(target, stored):
        target = _blank(stored, len(stored.values))
    _copy(stored, target)
    return target


def fetch(stored: QuantizedTensor) -> Float[Tensor, "r *axes"]:
    """Return the dequantised value; floats stored in their own dtype are returned without copy."""
    if stored.scale is None or not _is_plain(stored):
        return dequantize(stored)
    codes, scale = _groups(stored, stored.scale)
    # The multiplication casts the codes, which saves a pass. In float32 no product overflows
    # (see scale_of).
    value = torch.mul(codes, scale).flatten(-2)
    return value if stored.dtype == torch.float32 else saturate_(value.to(stored.dtype))


def continued(
    value: Float[Tensor, "r *axes"], difference: QuantizedTensor, weight: Factor
) -> Float[Tensor, "r *axes"]:
    """Return ``value + weight * difference``, reading the difference's codes in one pass.

    Args:
        value: dequantised from a tensor of the difference's format. Of an integer format it is
            overwritten; of a float format it may be the cache's own tensor and is not.
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
    """Return ``(value - earlier) * rate``, reading the codes of ``earlier`` in one pass."""
    if earlier.scale is None or not _is_plain(earlier):
        return divided_difference(value, fetch(earlier), rate)
    codes, scale = _groups(earlier, earlier.scale)
    groups = value.unflatten(-1, (codes.shape[-2], -1))
    change = torch.addcmul(groups, codes, scale, value=-1.0).flatten(-2).to(value.dtype)
    return change.mul_(beside(rate, change) if isinstance(rate, Tensor) else rate)


def take(stored: QuantizedTensor, rows: Int[Tensor, " s"]) -> QuantizedTensor:
    """Return a copy of some rows."""
    scale = None if stored.scale is None else stored.scale[rows]
    return replace(stored, values=stored.values[rows], scale=scale)


def is_alike(one: QuantizedTensor, other: QuantizedTensor) -> bool:
    """True if the content of either tensor can be copied into the other."""
    same_values = one.values.shape == other.values.shape and one.values.dtype == other.values.dtype
    same_device = one.values.device == other.values.device
    same_meaning = (one.form, one.dtype, one.axes) == (other.form, other.dtype, other.axes)
    return same_values and same_device and same_meaning and one.balance is other.balance


def _is_plain(stored: QuantizedTensor) -> bool:
    """True if the in-place kernels of this module handle the format."""
    if stored.balance is not None or not stored.axes or stored.dtype not in FLOATS.values():
        return False
    # Two int4 codes are read as one 16-bit word with the first code in its lower byte.
    is_paired = stored.axes[-1] % 2 == 0 and sys.byteorder == "little"
    return stored.form.dtype == "int8" or (stored.form.dtype == "int4" and is_paired)


def _groups(stored: QuantizedTensor, scale: Tensor) -> tuple[Int8[Tensor, "r *tokens g c"], Tensor]:
    """Codes by group, and scales in a shape that broadcasts over them."""
    codes = stored.values if stored.form.dtype == "int8" else _unpacked(stored.values)
    return codes.unflatten(-1, (scale.shape[-1], -1)), scale.unsqueeze(-1)


def _blank(stored: QuantizedTensor, num_rows: int) -> QuantizedTensor:
    """Allocate the tensors of ``stored`` for another number of rows, uninitialised."""
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
    magnitudes = groups.abs()
    fresh = scale_of(magnitudes.amax(dim=shared, keepdim=True).float(), bits)
    scale.copy_(fresh.squeeze(-1))
    # The quotients overwrite the magnitudes, if those are float32 too, to save an allocation.
    codes = torch.div(groups, fresh, out=magnitudes if magnitudes.dtype == torch.float32 else None)
    largest = largest_code(bits)
    codes = codes.round_().clamp_(-largest, largest).nan_to_num_(0.0).flatten(-2)
    stored.copy_(codes if bits == 8 else _packed(codes.add_(largest)))


def _packed(offset: Float[Tensor, "*axes d"]) -> Shaped[Tensor, "*axes d/2"]:
    """Pack int4 codes, offset to 0..14, two to a 16-bit word. In the word the second code lies 8
    bits above the first, and the packed byte holds it 4 bits above; the word's upper byte is
    dropped by the later cast to uint8."""
    words = offset.to(torch.uint8, memory_format=torch.contiguous_format).view(torch.int16)
    return words >> 4 | words


def _unpacked(packed: UInt8[Tensor, "*axes p"]) -> Int8[Tensor, "*axes d"]:
    words = packed.to(torch.int16, memory_format=torch.contiguous_format)
    words = (words << 4).bitwise_or_(words).bitwise_and_(0x0F0F)
    return words.view(torch.int8).sub_(largest_code(4))
