from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.quantization import FLOATS, dequantize, quantize


def random_value(seed, shape, exponent=0.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent


shapes = st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple)


@given(seed=st.integers(0, 2**31), shape=shapes, exponent=st.floats(-20, 20))
def test_round_trip_is_within_half_a_scale(seed, shape, exponent):
    value = random_value(seed, shape, exponent)
    stored = quantize(value, "int8")
    # A part in 10^4 for the float32 arithmetic of the division itself.
    assert stored.scale is not None
    bound = stored.scale * 0.5001
    assert ((dequantize(stored) - value).abs() <= bound).all()


@given(seed=st.integers(0, 2**31), shape=shapes)
def test_largest_magnitude_fills_the_range(seed, shape):
    stored = quantize(random_value(seed, shape), "int8")
    assert stored.values.dtype == torch.int8
    assert (stored.values.flatten(1).int().abs().amax(dim=1) == 127).all()


@given(seed=st.integers(0, 2**31), exponent=st.floats(-10, 10))
def test_a_row_is_stored_as_if_alone(seed, exponent):
    value = random_value(seed, (3, 4, 5))
    value[1] *= 10.0**exponent
    together = dequantize(quantize(value, "int8"))
    alone = torch.cat([dequantize(quantize(row[None], "int8")) for row in value])
    assert torch.equal(together, alone)


def test_rows_of_one_number_have_scales_of_their_own():
    value = torch.tensor([1.0, 1e-3])
    torch.testing.assert_close(dequantize(quantize(value, "int8")), value)


def test_zero_rows_come_back_exactly():
    value = random_value(0, (3, 4))
    value[1] = 0
    back = dequantize(quantize(value, "int8"))
    assert back.isfinite().all()
    assert torch.equal(back[1], torch.zeros(4))


@pytest.mark.parametrize("name", FLOATS)
def test_floats_pass_through(name):
    value = random_value(1, (2, 8)).to(FLOATS[name])
    stored = quantize(value, name)
    assert stored.scale is None
    assert torch.equal(dequantize(stored), value)


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_narrow_floats_round_as_a_cast_does(name):
    value = random_value(2, (2, 8))
    back = dequantize(quantize(value, name))
    assert back.dtype == torch.float32
    assert torch.equal(back, value.to(FLOATS[name]).float())


@pytest.mark.parametrize("name", [*FLOATS, "int8"])
@pytest.mark.parametrize("dtype", FLOATS.values(), ids=str)
def test_dtype_and_shape_come_back(name, dtype):
    value = random_value(3, (2, 3, 4)).to(dtype)
    back = dequantize(quantize(value, name))
    assert back.dtype == dtype
    assert back.shape == value.shape


@given(shape=shapes)
def test_bytes_are_those_of_values_and_scales(shape):
    value = torch.ones(shape)
    assert quantize(value, "fp32").nbytes == 4 * value.numel()
    assert quantize(value, "fp16").nbytes == 2 * value.numel()
    assert quantize(value, "bf16").nbytes == 2 * value.numel()
    assert quantize(value, "int8").nbytes == value.numel() + 4 * shape[0]


def test_quantising_twice_changes_nothing():
    once = dequantize(quantize(random_value(4, (2, 16)), "int8"))
    torch.testing.assert_close(dequantize(quantize(once, "int8")), once)


def test_unknown_format_is_refused():
    # Past the type checker, as a caller without one would.
    unchecked: Any = getattr(quantize, "__wrapped__", quantize)
    with pytest.raises(ValueError, match=r"cache_dtype must be one of .*'int3'.*Pass 'int8'"):
        unchecked(torch.ones(1, 2), "int3")
