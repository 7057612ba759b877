from __future__ import annotations

from typing import Literal

import pytest
import torch

from dqar.cache.cache import ReuseCache
from dqar.config import DQARConfig
from dqar.records import STACKED, EntryKey

KEY = EntryKey("attn", 3)


def cache_of(bits: Literal[8, 16, 32] = 32) -> ReuseCache:
    return ReuseCache(DQARConfig(quantization_bits=bits).cache_formats(num_heads=None))


def random_output(seed: int, rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, 5, 6, generator=torch.Generator().manual_seed(seed))


def test_what_is_stored_comes_back_under_its_name():
    cache = cache_of()
    keys, values = random_output(0), random_output(1)
    cache.store(KEY, {"keys": keys, "values": values})
    found = cache.fetch(KEY)
    torch.testing.assert_close(found.keys, keys, rtol=0, atol=0)
    torch.testing.assert_close(found.values, values, rtol=0, atol=0)
    assert found.output is None


def test_entries_are_separate_by_site_layer_and_branch():
    cache = cache_of()
    cache.store(KEY, {"output": random_output(0)})
    assert EntryKey("attn", 3, STACKED) in cache
    others = EntryKey("ff", 3), EntryKey("attn", 2), EntryKey("attn", 3, "cond")
    assert not any(other in cache for other in others)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_some_rows_are_stored_as_all_would_be(bits):
    before, after = random_output(0), 100 * random_output(1)
    rows = torch.tensor([3, 1])
    cache, whole = cache_of(bits), cache_of(bits)
    cache.store(KEY, {"output": before.clone()})
    cache.store(KEY, {"output": after[rows]}, rows)
    mixed = before.clone()
    mixed[rows] = after[rows]
    whole.store(KEY, {"output": mixed})
    assert torch.equal(cache.read(KEY)["output"], whole.read(KEY)["output"])
    assert cache.nbytes == whole.nbytes


def test_bytes_add_up_over_entries_and_parts():
    cache = cache_of(8)
    assert cache.nbytes == 0
    cache.store(KEY, {"keys": random_output(0), "values": random_output(1)})
    cache.store(EntryKey("ff", 0), {"output": random_output(2)})
    assert cache.nbytes == 3 * (4 * 5 * 6 + 4 * 4)


def test_storing_again_replaces():
    cache = cache_of()
    cache.store(KEY, {"output": random_output(0)})
    size = cache.nbytes
    cache.store(KEY, {"output": random_output(1)})
    assert cache.nbytes == size
    assert torch.equal(cache.read(KEY)["output"], random_output(1))


def test_a_whole_entry_replaces_all_of_the_earlier_one():
    cache = cache_of()
    cache.store(KEY, {"keys": random_output(0), "values": random_output(1)})
    cache.store(KEY, {"output": random_output(2)})
    found = cache.fetch(KEY)
    assert found.keys is None
    assert found.values is None
    assert torch.equal(cache.read(KEY)["output"], random_output(2))


def test_sixteen_bits_of_a_bf16_model_are_bf16():
    cache = cache_of(16)
    value = torch.tensor([[[1e5, 1e-8]]], dtype=torch.bfloat16)
    cache.store(KEY, {"output": value})
    assert torch.equal(cache.read(KEY)["output"], value)
    assert cache.nbytes == 4
