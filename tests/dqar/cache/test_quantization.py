from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.cache.quantization import (
    BITS,
    FLOATS,
    CacheFormat,
    dequantize,
    quantize,
    write_rows,
)
from tests.dqar.cache_forms import (
    FORMS,
    QMAX,
    every_form,
    every_integer,
    name_of,
    random_value,
    seeds,
    shapes,
)


def random_factors(seed, width):
    return random_value(seed, (width,)).exp()


def there_and_back(value, form, balance=None):
    return dequantize(quantize(value, form, balance))


def scale_of_each(stored):
    """Return, for each value, the scale of its group."""
    return stored.scale.repeat_interleave(stored.axes[-1] // stored.scale.shape[-1], dim=-1)


@every_form
@given(seed=seeds, shape=shapes, exponent=st.floats(-44, 37))
def test_round_trip_is_within_half_a_scale(form, seed, shape, exponent):
    value = random_value(seed, shape, exponent)
    stored = quantize(value, form)
    # A relative tolerance of 1e-4 for the rounding of the float32 division.
    bound = scale_of_each(stored) * 0.5001
    assert ((dequantize(stored) - value).abs() <= bound).all()


@every_form
@given(seed=seeds, shape=shapes)
def test_each_group_fills_the_range(form, seed, shape):
    stored = quantize(random_value(seed, shape), form)
    codes = (dequantize(stored) / scale_of_each(stored)).round().abs()
    groups = codes.unflatten(-1, (form.num_groups(shape), -1)).amax(dim=(1, 3))
    assert (groups == QMAX[form.dtype]).all()


@pytest.mark.parametrize(
    ("granularity", "groups"), [("per_tensor", 1), ("per_channel", 6), ("per_head", 2)]
)
def test_scales_are_one_a_group_of_each_row(granularity, groups):
    form = CacheFormat(granularity=granularity, num_heads=2)
    stored = quantize(random_value(0, (3, 5, 6)), form)
    assert stored.scale is not None
    assert (stored.scale.shape, stored.scale.dtype) == ((3, 1, groups), torch.float32)


@every_form
@given(seed=seeds, exponent=st.floats(-10, 10))
def test_a_row_is_stored_as_if_alone(form, seed, exponent):
    value, balance = random_value(seed, (3, 4, 6)), random_factors(seed, 6)
    value[1] *= 10.0**exponent
    together = there_and_back(value, form, balance)
    alone = torch.cat([there_and_back(row[None], form, balance) for row in value])
    assert torch.equal(together, alone)


@every_integer
def test_rows_of_one_number_have_scales_of_their_own(dtype):
    value = torch.tensor([1.0, 1e-3, -5.0])
    torch.testing.assert_close(there_and_back(value, CacheFormat(dtype=dtype)), value)


@every_form
def test_zero_groups_come_back_exactly(form):
    value = random_value(0, (3, 4, 6))
    value[1] = 0
    value[2, :, :3] = 0
    back = there_and_back(value, form)
    assert back.isfinite().all()
    assert not back[1].any()
    assert not back[2, :, :3].any()


@every_form
@given(seed=seeds, exponent=st.integers(-45, 38), dtype=st.sampled_from(list(FLOATS.values())))
def test_every_magnitude_comes_back_finite(form, seed, exponent, dtype):
    value = random_value(seed, (3, 3, 6), exponent).to(dtype)
    value[0, 0, 0], value[1, 0, 0] = torch.finfo(dtype).max, -torch.inf
    for balance in (None, random_factors(seed, 6)):
        back = there_and_back(value, form, balance)
        assert back.isfinite().all()
        assert back[1, 0, 0] < 0


@every_form
def test_nan_takes_its_group_and_no_other(form):
    value = random_value(5, (2, 3, 6))
    clean = there_and_back(value, form)
    value[0, 1, 2] = torch.nan
    back = there_and_back(value, form)
    spoilt = {"per_tensor": slice(0, 6), "per_channel": slice(2, 3), "per_head": slice(0, 3)}
    clean[0, :, spoilt[form.granularity]] = torch.nan
    torch.testing.assert_close(back, clean, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", FLOATS)
def test_floats_pass_through(name):
    value = random_value(1, (2, 8)).to(FLOATS[name])
    value[0, 0] = torch.nan
    stored = quantize(value, CacheFormat(dtype=name), random_factors(0, 8))
    assert stored.scale is None
    torch.testing.assert_close(dequantize(stored), value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_narrow_floats_round_as_a_cast_does(name):
    value = random_value(2, (2, 8))
    back = there_and_back(value, CacheFormat(dtype=name))
    assert back.dtype == torch.float32
    assert torch.equal(back, value.to(FLOATS[name]).float())


@pytest.mark.parametrize("given_as", FLOATS.values(), ids=str)
@pytest.mark.parametrize("name", FLOATS)
def test_what_a_float_cannot_hold_becomes_its_largest_value(name, given_as):
    value = torch.tensor([[-torch.finfo(given_as).max, 1.0]], dtype=given_as)
    back = there_and_back(value, CacheFormat(dtype=name))
    # 65504, the largest float16, rounds to 65536 in bfloat16, which overflows float16.
    narrowest = min(torch.finfo(FLOATS[name]).max, torch.finfo(given_as).max)
    torch.testing.assert_close(back, torch.tensor([[-narrowest, 1.0]]).to(given_as))


@every_integer
def test_a_rounding_beyond_float16_is_clamped(dtype):
    # Channel 0 sets a scale at which 60000 in channel 1 would come back as more than 65504.
    value = torch.tensor([[[60000.0, 60000.0]]], dtype=torch.float16)
    back = there_and_back(value, CacheFormat(dtype=dtype), torch.tensor([0.6 * QMAX[dtype], 0.4]))
    assert back.isfinite().all()


@pytest.mark.parametrize("shape", [(3,), (2, 5), (0, 3, 5), (2, 3, 2, 5)], ids=str)
@pytest.mark.parametrize("name", [*FLOATS, *BITS])
@pytest.mark.parametrize("dtype", FLOATS.values(), ids=str)
def test_dtype_and_shape_come_back(name, dtype, shape):
    back = there_and_back(random_value(3, shape).to(dtype), CacheFormat(dtype=name))
    assert (back.dtype, back.shape) == (dtype, shape)


@every_integer
@given(seed=seeds, rows=st.integers(1, 3), tokens=st.integers(1, 3), width=st.integers(1, 13))
def test_codes_of_any_width_come_back_from_their_bytes(dtype, seed, rows, tokens, width):
    qmax = QMAX[dtype]
    codes = torch.randint(
        -qmax, qmax + 1, (rows, tokens, width), generator=torch.Generator().manual_seed(seed)
    ).float()
    # With a code at the end of the range the scale is 1, and nothing is rounded.
    codes[:, 0, 0] = qmax
    assert torch.equal(there_and_back(codes, CacheFormat(dtype=dtype)), codes)


@given(shape=st.lists(st.integers(1, 7), min_size=2, max_size=4).map(tuple))
def test_bytes_are_those_of_packed_values_and_scales(shape):
    value, vectors = torch.ones(shape), torch.ones(shape).numel() // shape[-1]
    for name, dtype in FLOATS.items():
        assert quantize(value, CacheFormat(dtype=name)).nbytes == dtype.itemsize * value.numel()
    for name, bits in BITS.items():
        packed = vectors * -(-shape[-1] * bits // 8)
        assert quantize(value, CacheFormat(dtype=name)).nbytes == packed + 4 * shape[0]


@pytest.mark.parametrize(
    ("granularity", "groups"), [("per_tensor", 1), ("per_head", 16), ("per_channel", 1152)]
)
def test_keys_and_values_of_dit_xl_take_63_mib_in_fp16(granularity, groups):
    layers, branches, tokens, width = 28, 2, 256, 1152
    value = torch.ones(branches, tokens, width, dtype=torch.float16)

    def total(dtype):
        form = CacheFormat(dtype=dtype, granularity=granularity, num_heads=16)
        return layers * 2 * quantize(value, form).nbytes

    scales = layers * 2 * branches * groups * 4
    assert total("fp16") == 66_060_288 == 63 * 2**20
    assert total("int8") == 66_060_288 // 2 + scales
    assert total("int4") == 66_060_288 // 4 + scales
    assert total("int2") == 66_060_288 // 8 + scales


@every_integer
@given(seed=seeds, outlier=st.integers(0, 5))
def test_an_outlier_channel_spoils_others_per_tensor_only(dtype, seed, outlier):
    calm = random_value(seed, (2, 16, 6))
    wild = calm.clone()
    wild[..., outlier] *= 1e4
    others = torch.arange(6) != outlier
    other_head = slice(0, 3) if outlier > 2 else slice(3, 6)

    def stored(value, granularity):
        form = CacheFormat(dtype=dtype, granularity=granularity, num_heads=2)
        return there_and_back(value, form)[..., others if granularity != "per_head" else other_head]

    assert torch.equal(stored(wild, "per_channel"), stored(calm, "per_channel"))
    assert torch.equal(stored(wild, "per_head"), stored(calm, "per_head"))
    assert stored(calm, "per_tensor").any()
    assert not stored(wild, "per_tensor").any()


@pytest.mark.parametrize("form", [*FORMS, CacheFormat(dtype="fp16")], ids=name_of)
@given(seed=seeds)
def test_written_rows_are_those_of_the_merged_tensor(form, seed):
    before, after = random_value(seed, (4, 3, 6)), random_value(seed + 1, (4, 3, 6), 2.0)
    balance, rows = random_factors(seed, 6), torch.tensor([3, 1])
    stored = quantize(before, form, balance)
    write_rows(stored, quantize(after[rows], form, balance), rows)
    merged = before.clone()
    merged[rows] = after[rows]
    whole = quantize(merged, form, balance)
    assert torch.equal(dequantize(stored), dequantize(whole))
    assert stored.nbytes == whole.nbytes


@every_form
@given(seed=seeds, shape=shapes)
def test_quantising_twice_changes_nothing(form, seed, shape):
    first = quantize(random_value(seed, shape), form)
    second = quantize(dequantize(first), form)
    assert torch.equal(second.values, first.values)
    torch.testing.assert_close(second.scale, first.scale)
