"""Times of skipped steps: computed steps, peers that compute the same steps, and figures."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.timing import skipped_steps
from benchmarks.timing.skipped_steps import COMPUTED, STEPS, Way, figures, measure, ways_of
from benchmarks.timing.speed import timed_model_of
from benchmarks.timing.support.flags import Settings
from benchmarks.timing.support.peers import cache_dit

TINY = Settings(model="tiny-dit", device="cpu", batch=1)


def test_every_way_computes_the_planned_steps():
    """Blocks are called at the computed steps alone; ``attn,ff`` calls their attention."""
    timed_model = timed_model_of(TINY)
    sampled = skipped_steps.sampled_of(timed_model)
    ways = list(ways_of(timed_model, TINY, (1,)))
    names = [way.name for way in ways]
    assert names[:5] == [
        "stock",
        "controller stack 1",
        "planned stack 1",
        "controller attn,ff 1",
        "planned attn,ff 1",
    ]
    assert "taylorseer 1" in names
    for way in ways:
        calls = []
        last = getattr(way.model, "transformer", way.model).transformer_blocks[-1]
        last.attn1.to_q.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        for run in range(2):
            sampled.variant(way).run()
            expected = STEPS if way.name == "stock" else sum(COMPUTED)
            assert len(calls) == (run + 1) * expected, way.name
        assert [len(seconds) for seconds in way.seconds] == [STEPS, STEPS]


def test_figures_of_a_way():
    step = [0.1 if computed else 0.01 for computed in COMPUTED]
    stock = Way(name="stock", model=None, seconds=[[0.1] * STEPS])
    row = figures(stock, Way(name="way", model=None, seconds=[step]))
    assert row["r"] == pytest.approx(0.1)
    assert row["computed"] == pytest.approx(1.0)
    assert row["speedup"] == row["bound"] == pytest.approx(13 / 6.7, rel=1e-3)
    assert row["fraction"] == pytest.approx(1.0)


def test_result():
    result = measure(TINY, rounds=1, orders=(1,))
    result = json.loads(json.dumps(result, allow_nan=False))
    assert result["computed_steps"] == [0, 1, 3, 6, 9, 12]
    assert result["rounds"] == 1
    keys = {"speedup", "r", "computed", "bound", "fraction"}
    for row in result["ways"]:
        assert row.keys() >= keys | {f"{key}_ci95" for key in keys}


def test_package_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cache_dit", None)
    assert cache_dit(torch.nn.Linear(1, 1), 1, COMPUTED) is None
