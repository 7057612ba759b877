"""Symmetric quantisation of cached tensors: ``q = clip(round(x / s), -127, 127)``, s = max|x|/127.

Each batch row has a scale of its own, so that one sample never depends on its batch mates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

CacheDtype = Literal["fp32", "fp16", "bf16", "int8"]
"""How a cached tensor is stored. Floating formats pass through; ``int8`` is per tensor."""

FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedTensor:
    """A stored tensor. ``values * scale`` gives it back; floats have no scale."""

    values: Shaped[Tensor, "r *axes"]
    scale: Float[Tensor, "r *ones"] | None
    dtype: torch.dtype
    """The dtype that :func:`dequantize` returns."""

    @property
    def nbytes(self) -> int:
        """Bytes held, scales included."""
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)


def quantize(value: Float[Tensor, "r *axes"], cache_dtype: CacheDtype) -> QuantizedTensor:
    """Store ``value``; the round trip is within half a scale for int8.

    Raises:
        ValueError: for an unknown format.
    """
    if cache_dtype in FLOATS:
        # A copy, so that nothing the caller does to its tensor later reaches the cache.
        stored = value.detach().to(FLOATS[cache_dtype], copy=True)
        return QuantizedTensor(values=stored, scale=None, dtype=value.dtype)
    if cache_dtype != "int8":
        raise ValueError(
            f"cache_dtype must be one of {(*FLOATS, 'int8')}. Got {cache_dtype=}. Pass 'int8'."
        )
    scale = _row_scale(value)
    values = (value.detach().float() / scale).round().clamp(-127, 127).to(torch.int8)
    return QuantizedTensor(values=values, scale=scale, dtype=value.dtype)


def _row_scale(value: Tensor) -> Tensor:
    largest = value.detach().float().abs()
    if value.ndim > 1:
        largest = largest.amax(dim=tuple(range(1, value.ndim)), keepdim=True)
    # A row of zeros would divide by zero; any positive scale stores it exactly.
    return largest.clamp_min(1e-30) / 127.0


def dequantize(stored: QuantizedTensor) -> Float[Tensor, "r *axes"]:
    """The tensor as it can be used again, in the dtype it was given in."""
    if stored.scale is None:
        return stored.values.to(stored.dtype)
    return (stored.values.float() * stored.scale).to(stored.dtype)
