"""Interleaved rounds: order, warm-up, and the time budget."""

from __future__ import annotations

import time

import pytest

from benchmarks.timing.support.interleaved_rounds import Ran, Variant, time_rounds


def spoken(name: str, said: list[str], seconds: float = 1.0) -> Variant:
    def run() -> Ran:
        said.append(name)
        return Ran(seconds=seconds, cache_bytes=len(name))

    return Variant(name=name, run=run)


def silent(line: str) -> None:
    del line


def test_order_rotates_and_the_first_round_does_not_count():
    said: list[str] = []
    variants = [spoken(name, said) for name in ("a", "bb", "ccc")]
    rounds = time_rounds(variants, 3, "cpu", tell=silent)
    runs = [said[start : start + 3] for start in range(0, 12, 3)]
    assert runs[0] == ["a", "bb", "ccc"]
    assert runs[1:] == [["a", "bb", "ccc"], ["bb", "ccc", "a"], ["ccc", "a", "bb"]]
    assert rounds.count == 3
    assert rounds.seconds == {name: [1.0] * 3 for name in ("a", "bb", "ccc")}
    assert rounds.cache_bytes == {"a": 1, "bb": 2, "ccc": 3}
    assert set(rounds.peak_bytes.values()) == {None}


def test_ratio_pairs_two_variants():
    variants = [spoken("slow", [], 3.0), spoken("fast", [], 2.0)]
    ratio = time_rounds(variants, 6, "cpu", tell=silent).ratio("slow", "fast")
    assert ratio == {"median": 1.5, "low": 1.5, "high": 1.5}


def test_warming_up_counts_where_there_is_time_for_nothing_else():
    said: list[str] = []
    variants = [spoken("a", said), spoken("b", said, 2.0)]
    rounds = time_rounds(variants, 4, "cpu", 0.0, silent, may_be_cold=True)
    assert said == ["a", "b"]
    assert rounds.is_cold
    assert rounds.seconds == {"a": [1.0], "b": [2.0]}
    assert not time_rounds(variants, 1, "cpu", None, silent, may_be_cold=True).is_cold


@pytest.mark.parametrize(("budget", "expected"), [(0.0, 1), (1e6, 4), (None, 4)])
def test_no_round_begins_that_would_end_too_late(budget, expected):
    def run() -> Ran:
        time.sleep(0.001)
        return Ran(seconds=1.0)

    rounds = time_rounds([Variant(name="a", run=run)], 4, "cpu", budget, silent)
    assert rounds.count == expected
