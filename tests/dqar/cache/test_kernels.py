"""The in-place kernels equal the reference to the bit, and keep the addresses of their tensors."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.cache.forecast import divided_difference, forecast
from dqar.cache.kernels import continued, divided, duplicate, fetch, overwrite, overwrite_rows
from dqar.cache.quantization import (
    BITS,
    FLOATS,
    CacheFormat,
    Granularity,
    QuantizedTensor,
    dequantize,
    quantize,
    write_rows,
)

FORMS = [
    CacheFormat(dtype=dtype, granularity=granularity, num_heads=2)
    for dtype in BITS
    for granularity in get_args(Granularity)
] + [CacheFormat(dtype=dtype) for dtype in FLOATS]

every_form = pytest.mark.parametrize(
    "form", FORMS, ids=lambda form: f"{form.dtype}-{form.granularity}"
)
seeds = st.integers(0, 2**31)
dtypes = st.sampled_from([*FLOATS.values(), torch.float64])
# Rows, tokens, and a width: even widths for two heads, odd widths for one head.
shapes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 7).map(lambda e: 2 * e))


def random_value(seed, shape, exponent=0.0, dtype=torch.float32):
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    return value.to(dtype)


def assert_same(one: QuantizedTensor, other: QuantizedTensor):
    exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(one.values, other.values, **exactly)
    torch.testing.assert_close(one.scale, other.scale, **exactly)
    torch.testing.assert_close(fetch(one), dequantize(other), **exactly)
    assert (one.dtype, one.axes, one.form) == (other.dtype, other.axes, other.form)


def addresses(stored: QuantizedTensor) -> list[int]:
    return [part.data_ptr() for part in (stored.values, stored.scale) if part is not None]


@every_form
@given(seed=seeds, shape=shapes, exponent=st.floats(-44, 37), dtype=dtypes)
def test_written_in_place_is_what_the_reference_stores(form, seed, shape, exponent, dtype):
    stored = quantize(random_value(seed + 1, shape, dtype=dtype), form)
    before, value = addresses(stored), random_value(seed, shape, exponent, dtype)
    overwrite(stored, value)
    assert_same(stored, quantize(value, form))
    assert addresses(stored) == before


@every_form
@given(seed=seeds, place=st.integers(0, 47), dtype=dtypes)
@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf, 0.0, 65504.0, 3.4e38])
def test_odd_values_are_stored_as_the_reference_does(form, seed, place, dtype, odd):
    value = random_value(seed, (2, 4, 6), dtype=dtype)
    value.view(-1)[place] = min(odd, torch.finfo(dtype).max) if odd == 3.4e38 else odd
    value[1] *= 0
    stored = quantize(torch.ones_like(value), form)
    overwrite(stored, value)
    assert_same(stored, quantize(value, form))


@pytest.mark.parametrize("dtype", [*BITS, *FLOATS])
@given(seed=seeds, shape=st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple))
def test_any_shape_is_stored_as_the_reference_does(dtype, seed, shape):
    value, form = random_value(seed, shape), CacheFormat(dtype=dtype)
    stored = quantize(torch.ones(shape), form)
    overwrite(stored, value)
    assert_same(stored, quantize(value, form))


@every_form
@given(seed=seeds)
def test_balanced_values_are_stored_as_the_reference_does(form, seed):
    value, balance = random_value(seed, (3, 4, 6)), random_value(seed + 1, (6,)).exp()
    stored = quantize(torch.ones(3, 4, 6), form, balance)
    overwrite(stored, value)
    assert_same(stored, quantize(value, form, balance))


@every_form
@given(seed=seeds)
def test_order_in_memory_does_not_matter(form, seed):
    value = random_value(seed, (4, 3, 6))
    stored = quantize(value.permute(2, 1, 0).contiguous().permute(2, 1, 0), form)
    assert_same(stored, quantize(value, form))
    overwrite(stored, value.permute(2, 1, 0).contiguous().permute(2, 1, 0))
    assert_same(stored, quantize(value, form))


@every_form
@given(seed=seeds)
def test_some_rows_are_those_of_the_reference(form, seed):
    before, after = random_value(seed, (4, 3, 6)), random_value(seed + 1, (2, 3, 6), 2.0)
    rows = torch.tensor([3, 1])
    stored, reference = quantize(before, form), quantize(before, form)
    held = addresses(stored)
    overwrite_rows(stored, after, rows)
    write_rows(reference, quantize(after, form), rows)
    assert_same(stored, reference)
    assert addresses(stored) == held


@every_form
def test_a_duplicate_is_apart_and_takes_the_room_there_is(form):
    value = random_value(0, (4, 3, 6))
    stored = quantize(value, form)
    copy = duplicate(stored, None)
    assert not set(addresses(copy)) & set(addresses(stored))
    overwrite(stored, random_value(1, (4, 3, 6)))
    assert_same(copy, quantize(value, form))
    assert duplicate(stored, copy) is copy
    assert_same(copy, stored)
    other = quantize(value[:2], form)
    assert duplicate(stored, other) is not other


@every_form
def test_what_was_stored_does_not_follow_what_was_given(form):
    value = random_value(0, (2, 3, 6)).requires_grad_()
    stored = quantize(torch.ones(2, 3, 6), form)
    overwrite(stored, value)
    before = fetch(stored).clone()
    with torch.no_grad():
        value.mul_(2)
    assert torch.equal(fetch(stored), before)
    assert not fetch(stored).requires_grad


@every_form
def test_nothing_waits_for_the_device(form):
    # A meta tensor has no data: code that reads a value on the host, or mixes devices, fails.
    value = torch.ones(4, 3, 6, device="meta")
    stored = quantize(value, form)
    overwrite(stored, value)
    overwrite_rows(stored, value[:2], torch.ones(2, device="meta").long())
    assert fetch(stored).shape == value.shape


@pytest.mark.parametrize("granularity", get_args(Granularity)[::2])
def test_int8_is_at_most_half_of_fp16_and_a_hundredth(granularity):
    value = torch.ones(8, 256, 384, dtype=torch.float16)
    form = CacheFormat(dtype="int8", granularity=granularity, num_heads=6)
    assert quantize(value, form).nbytes <= 0.51 * quantize(value, CacheFormat(dtype="fp16")).nbytes


@every_form
@given(
    seed=seeds, shape=shapes, weight=st.floats(0.1, 100), dtype=st.sampled_from([*FLOATS.values()])
)
def test_continued_by_its_codes_is_the_forecast(form, seed, shape, weight, dtype):
    value, change = (random_value(seed + n, shape, dtype=dtype) for n in range(2))
    stored, difference = quantize(value, form), quantize(change, form)
    held = stored.values.clone()
    expected = forecast(dequantize(stored), [dequantize(difference)], [weight])
    # The kernel rounds once where the reference rounds twice; the bound is of the larger term.
    bound = {"atol": 4 * torch.finfo(dtype).eps * (weight * 8 + 8), "rtol": 0}
    for factor in (weight, torch.full((len(value),), weight)):
        found = continued(fetch(stored), difference, factor)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, **bound)
        made = divided(value, difference, factor / 100)
        assert made.dtype == dtype
        expected_change = divided_difference(value, dequantize(difference), weight / 100)
        torch.testing.assert_close(made, expected_change, **bound)
    assert torch.equal(stored.values, held)
