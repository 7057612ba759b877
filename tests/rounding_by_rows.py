"""Pytest plugin that makes rounding depend on the index of a row and on the number of rows.

    python -m pytest -p tests.rounding_by_rows

Kernels of some processors round linear layers and convolutions in this way, others do not. With the
plugin, a test that asserts equality to the bit between batch sizes or orders fails everywhere.
"""

import torch
from torch import Tensor
from torch.nn import functional

LARGEST = 2
"""Largest change of a value, in units in the last place of float32."""

linear, convolve = functional.linear, functional.conv2d


def moved(exact: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """Change values by a few units in the last place, by row index and number of rows."""
    if not exact.numel():
        return exact.to(dtype)
    row = torch.arange(rows, device=exact.device)[:, None]
    column = torch.arange(exact.numel() // rows, device=exact.device)
    mixed = 7 * row + 5 * rows + 3 * column + (row // 3) * column
    units = (mixed % (2 * LARGEST + 1) - LARGEST).to(exact.dtype).view(exact.shape)
    return (exact * (1.0 + torch.finfo(torch.float32).eps * units)).to(dtype)


def exactly(*tensors: Tensor | None) -> list[Tensor | None]:
    """Cast to float32 at least, in which half-precision kernels add up before they round once."""
    return [
        None if one is None else one.to(torch.promote_types(one.dtype, torch.float32))
        for one in tensors
    ]


def linear_by_rows(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found = linear(*exactly(input, weight, bias))  # type: ignore[arg-type]
    return moved(found, found.numel() // max(1, found.shape[-1]), input.dtype)


def convolve_by_rows(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *args, **options
) -> Tensor:
    found = convolve(*exactly(input, weight, bias), *args, **options)  # type: ignore[arg-type]
    return moved(found, len(found), input.dtype)


def pytest_configure(config):
    functional.linear, functional.conv2d = linear_by_rows, convolve_by_rows
