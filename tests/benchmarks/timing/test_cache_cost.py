"""Benchmark of the cache: the JSON that it ends with, and the switch-over of partial rows."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.timing import cache_cost
from benchmarks.timing.support.models import ARCHITECTURES, Architecture

TINY = Architecture(num_layers=2, num_heads=2, head_dim=32, latent_size=16)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_it_ends_with_json(monkeypatch, capsys, tmp_path, dtype):
    monkeypatch.setitem(ARCHITECTURES, "tiny", TINY)
    out = tmp_path / "results" / "tiny.json"
    words = f"cache_cost --model tiny --device cpu --batch 2 --rounds 2 --dtype {dtype} --out {out}"
    monkeypatch.setattr(sys, "argv", words.split())
    cache_cost.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == json.loads(out.read_text())
    assert found["weights"] == "random"
    assert found["bytes_over_fp16"]["int8"] <= 0.51
    assert {"fetch int8", "store int4 reference", "entropy"} < set(found["share_of_step"])
    assert set(found["partial_rows"]["ff"]["gathered_over_selected"]) == {"1", "2"}


def test_switch_over_is_where_gathering_is_surely_slower():
    seconds = {
        f"attn {k} {kind}": [taken * (1.0 + 0.01 * index) for index in range(9)]
        for k, pair in {1: (0.5, 1.0), 2: (1.0, 1.0), 3: (1.5, 1.0)}.items()
        for kind, taken in zip(("gathered", "selected"), pair, strict=True)
    }
    found = cache_cost.switch_over(seconds, "attn")
    assert found["switch_over"] == 3
    assert [ratio["median"] for ratio in found["gathered_over_selected"].values()] == [0.5, 1, 1.5]
    assert cache_cost.switch_over(seconds, "ff")["switch_over"] is None
