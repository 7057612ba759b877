"""Storage formats that several tests run over, and random values to store."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import strategies as st

from dqar.cache.quantization import BITS, CacheFormat, Granularity

QMAX = {"int8": 127, "int4": 7, "int2": 1}
FORMS = [
    CacheFormat(dtype=dtype, granularity=granularity, num_heads=2)
    for dtype in BITS
    for granularity in get_args(Granularity)
]


def name_of(form):
    return f"{form.dtype}-{form.granularity}"


every_form = pytest.mark.parametrize("form", FORMS, ids=name_of)
every_integer = pytest.mark.parametrize("dtype", BITS)
seeds = st.integers(0, 2**31)
# Rows, tokens, and an even width, so that the width splits into two heads.
shapes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 7).map(lambda e: 2 * e))


def random_value(seed, shape, exponent=0.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
