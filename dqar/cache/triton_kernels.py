"""Triton kernels that write and read integer codes on a GPU: two launches to write, one to read.

The kernels handle int8 and int4 with one scale for each row. They were written without a GPU, so
:func:`is_proven` compares their results with the reference, to the bit, on the device that is to
run them; the kernels are used only if the results are equal.
"""

from __future__ import annotations

import inspect
import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dqar.cache.quantization import (
    BITS,
    CacheFormat,
    QuantizedTensor,
    dequantize,
    largest_code,
    quantize,
    saturate_,
    scale_of,
)

BLOCK = 1024
"""Number of values that one program handles; for int4, of pairs of values."""

# Triton resolves the kernels' names in this module's globals; _compiled sets this one.
tl: Any = None


@cache
def is_proven(device: torch.device) -> bool:
    """True if Triton is installed and its kernels equal the reference on this device.

    The first call compiles the kernels and waits for the device. It warns if they do not compile,
    or if their results differ.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        differing = [
            name for name in ("int8", "int4") if not agrees(CacheFormat(dtype=name), device)
        ]
    except Exception as error:  # compilers and drivers raise many types
        differing = [repr(error)]
    if differing:
        warnings.warn(
            f"Triton kernels are not used, torch's stand in: {differing}. Results are the same, "
            "storing and reading the cache is slower.",
            stacklevel=2,
        )
    return not differing


def agrees(form: CacheFormat, device: torch.device) -> bool:
    """True if the writing and the reading kernel of a format equal the reference to the bit.

    The test values cover the magnitudes 1e-40 to 1e38, zeros, NaN and infinities, rows that do not
    fill a whole number of blocks, and the dtypes float32, float16 and bfloat16.
    """
    exponents = torch.linspace(-40, 38, 14)[:, None, None]
    noise = torch.randn(14, 3, 6 * BLOCK // 8 + 2, generator=torch.Generator().manual_seed(0))
    value = noise * 10.0**exponents
    value[1] = 0.0
    value[2, 0, 0], value[3, 1, 1], value[4, 2, 2] = torch.nan, torch.inf, -torch.inf
    dtypes = torch.float32, torch.float16, torch.bfloat16
    return all(_agrees_on(value.to(device, dtype), form) for dtype in dtypes)


def _agrees_on(value: Tensor, form: CacheFormat) -> bool:
    reference, stored = quantize(value, form), quantize(torch.ones_like(value), form)
    assert reference.scale is not None
    assert stored.scale is not None
    overwrite_codes(stored.values, stored.scale, value, BITS[form.dtype])
    same_codes = torch.equal(stored.values, reference.values)
    same_scales = _same(stored.scale, reference.scale)
    return same_codes and same_scales and _same(fetch_codes(reference), dequantize(reference))


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)


def overwrite_codes(
    stored: Shaped[Tensor, "r *packed"],
    scale: Float[Tensor, "r *ones"],
    value: Float[Tensor, "r *axes"],
    bits: int,
) -> None:
    """Write the codes and scales of ``value`` in place.

    All tensors must be contiguous; for int4 the width must be even.
    """
    in_row, rows = value[0].numel(), len(value)
    blocks = -(-in_row // BLOCK)
    partial = torch.empty(rows, blocks, dtype=torch.float32, device=value.device)
    encode = _compiled(_encode if bits == 8 else _encode_pairs)
    size, largest = stored[0].numel(), largest_code(bits)
    with torch.cuda.device(value.device):
        _compiled(_magnitudes)[(rows, blocks)](value, partial, in_row, BLOCK=BLOCK)
        # One number for each row: the reference computes the scales.
        scale.copy_(scale_of(partial.amax(dim=1), bits).view_as(scale))
        grid = rows, -(-size // BLOCK)
        encode[grid](value, scale, stored, size, LARGEST=largest, BLOCK=BLOCK)


def fetch_codes(stored: QuantizedTensor) -> Float[Tensor, "r *axes"]:
    """Return the values of contiguous codes and scales, in one launch for float32 and two for
    other dtypes."""
    rows, size = len(stored.values), stored.values[0].numel()
    device = stored.values.device
    value = torch.empty(rows, *stored.axes, dtype=stored.dtype, device=device)
    decode = _compiled(_decode if stored.form.dtype == "int8" else _decode_pairs)
    grid = rows, -(-size // BLOCK)
    with torch.cuda.device(device):
        decode[grid](stored.values, stored.scale, value, size, BLOCK=BLOCK)
    return value if stored.dtype == torch.float32 else saturate_(value)


@cache
def _compiled(kernel: Any) -> Any:
    triton, language = import_module("triton"), import_module("triton.language")
    globals()["tl"] = language
    written = inspect.unwrap(kernel)  # removes a type checker's wrapper
    # Set here, since the kernels are also imported where Triton is not installed.
    written.__annotations__ = dict.fromkeys(("LARGEST", "BLOCK"), language.constexpr)
    return triton.jit(written)


# The kernels run one program for each row and block. Addresses have 64 bits, since a batch may hold
# more than 2^31 values.


def _magnitudes(value, partial, size, BLOCK):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(value + row * size + at, mask=at < size, other=0.0).to(tl.float32)
    # tl.max ignores NaN, but a NaN must make the scale of its group NaN.
    has_nan = tl.max((x != x).to(tl.int32), axis=0) > 0
    largest = tl.where(has_nan, float("nan"), tl.max(tl.abs(x), axis=0))
    tl.store(partial + row * tl.num_programs(1) + tl.program_id(1), largest)


def _encode(value, scale, codes, size, LARGEST, BLOCK):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(value + row * size + at, mask=at < size, other=0.0).to(tl.float32)
    # div_rn rounds as IEEE 754 requires; Triton's plain division is an approximation.
    x = tl.div_rn(x, tl.zeros_like(x) + tl.load(scale + row))
    x = tl.where(x > LARGEST, LARGEST, tl.where(x < -LARGEST, -LARGEST, x))
    # At 1.5 * 2^23 the spacing of float32 is 1: the sum rounds to an integer, halves to even.
    x = (x + 12582912.0) - 12582912.0
    x = tl.where(x != x, 0.0, x)
    tl.store(codes + row * size + at, x.to(tl.int8), mask=at < size)


def _encode_pairs(value, scale, packed, size, LARGEST, BLOCK):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = value + (row * size + at) * 2
    low = tl.load(first, mask=at < size, other=0.0).to(tl.float32)
    high = tl.load(first + 1, mask=at < size, other=0.0).to(tl.float32)
    by = tl.zeros_like(low) + tl.load(scale + row)
    low, high = tl.div_rn(low, by), tl.div_rn(high, by)
    low = tl.where(low > LARGEST, LARGEST, tl.where(low < -LARGEST, -LARGEST, low))
    high = tl.where(high > LARGEST, LARGEST, tl.where(high < -LARGEST, -LARGEST, high))
    low, high = (low + 12582912.0) - 12582912.0, (high + 12582912.0) - 12582912.0
    low, high = tl.where(low != low, 0.0, low), tl.where(high != high, 0.0, high)
    byte = (low + LARGEST).to(tl.int32) | ((high + LARGEST).to(tl.int32) << 4)
    tl.store(packed + row * size + at, byte.to(tl.uint8), mask=at < size)


def _decode(codes, scale, value, size, BLOCK):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(codes + row * size + at, mask=at < size, other=0).to(tl.float32)
    x = x * tl.load(scale + row)
    tl.store(value + row * size + at, x.to(value.dtype.element_ty), mask=at < size)


def _decode_pairs(packed, scale, value, size, BLOCK):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    byte = tl.load(packed + row * size + at, mask=at < size, other=0).to(tl.int32)
    by = tl.load(scale + row)
    low, high = ((byte & 15) - 7).to(tl.float32) * by, ((byte >> 4) - 7).to(tl.float32) * by
    first = value + (row * size + at) * 2
    tl.store(first, low.to(value.dtype.element_ty), mask=at < size)
    tl.store(first + 1, high.to(value.dtype.element_ty), mask=at < size)
