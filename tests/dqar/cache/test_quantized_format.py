"""Storage formats of the cache, the stored tensor, and the arguments that are refused."""

from __future__ import annotations

import pytest
import torch

from dqar.cache.quantization import (
    BITS,
    FLOATS,
    CacheFormat,
    dequantize,
    quantize,
    write_rows,
)
from tests.dqar.cache_forms import every_form, random_value


def test_mixed_keys_and_values_are_two_formats():
    keys, values = random_value(0, (2, 4, 6)).half(), random_value(1, (2, 4, 6)).half()
    stored = quantize(keys, CacheFormat(dtype="fp16")), quantize(values, CacheFormat(dtype="int8"))
    assert torch.equal(dequantize(stored[0]), keys)
    assert sum(part.nbytes for part in stored) == 2 * 48 + 48 + 2 * 4


@pytest.mark.parametrize("name", [*FLOATS, *BITS])
def test_what_is_stored_is_a_copy_without_a_graph(name):
    value = random_value(0, (2, 3, 4)).requires_grad_()
    stored = quantize(value, CacheFormat(dtype=name))
    before = dequantize(stored).clone()
    with torch.no_grad():
        value.mul_(2)
    assert torch.equal(dequantize(stored), before)
    assert not dequantize(stored).requires_grad


@every_form
def test_nothing_waits_for_the_device(form):
    # A meta tensor has no data: code that reads a value on the host, or mixes devices, fails.
    value, balance = torch.ones(4, 3, 6, device="meta"), torch.ones(6, device="meta")
    stored = quantize(value, form, balance)
    write_rows(stored, quantize(value[:2], form, balance), torch.ones(2, device="meta").long())
    assert dequantize(stored).shape == value.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int3"}, "dtype must be one of .*int2.*'int3'"),
        ({"granularity": "per_token"}, "granularity must be one of .*'per_token'"),
        ({"num_heads": 0}, "num_heads must be positive"),
    ],
)
def test_unknown_format_is_refused(changes, message):
    # __wrapped__ bypasses the tests' run-time type checker, which callers do not have.
    unchecked = getattr(CacheFormat.__init__, "__wrapped__", CacheFormat.__init__)
    with pytest.raises(ValueError, match=message):
        unchecked(object.__new__(CacheFormat), **changes)


@pytest.mark.parametrize("granularity", ["per_channel", "per_head"])
def test_scales_by_channel_need_tokens(granularity):
    with pytest.raises(ValueError, match="must have rows, tokens and channels"):
        quantize(torch.ones(2, 6), CacheFormat(granularity=granularity))


def test_heads_and_factors_must_fit_the_last_axis():
    with pytest.raises(ValueError, match="num_heads must divide the last axis"):
        quantize(torch.ones(2, 3, 6), CacheFormat(granularity="per_head", num_heads=4))
    with pytest.raises(ValueError, match="balance must hold one factor a channel"):
        quantize(torch.ones(2, 3, 6), CacheFormat(), torch.ones(3))
