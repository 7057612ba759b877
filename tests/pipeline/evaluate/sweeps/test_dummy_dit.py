"""The talk's benchmark on the dummy DiT, on counts that follow from arithmetic; no assertion on the
clock."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from dqar.config import DQARConfig
from dqar.gates.rules import NeverReuse
from pipeline.cluster.hardware import peak_resident_mb
from pipeline.evaluate.sweeps.config import ThresholdConfig
from pipeline.evaluate.sweeps.driver import sweep
from pipeline.evaluate.sweeps.dummy_dit import DummyBench, build_dummy
from pipeline.evaluate.sweeps.grids import scenarios

SCENARIOS = ("baseline", "static", "dqar")
THRESHOLDS = (1.5, 2.6, 3.0, 5.0)
LIMITS = (2, 6)
GATES = 6 * 12


@pytest.fixture(scope="module")
def talk():
    """The talk's sweep on a finer grid of thresholds, one run of each point."""
    config = ThresholdConfig(thresholds=THRESHOLDS, reuse_limits=LIMITS, runs=1)
    return sweep(config)


@pytest.fixture(scope="module")
def counts(talk):
    """Reuses by scenario, threshold and limit."""
    return {tuple(point.setting.values()): point.runs[0]["reuse_count"] for point in talk.points}


def test_the_dummys_entropy_lies_where_the_talks_thresholds_do(talk):
    low, high = talk.facts["entropy_min"], talk.facts["entropy_max"]
    # Above the lowest threshold, on both sides of 3.0, below 5.0; 64 tokens have at most ln 64.
    assert 2.0 < low < 2.6 < 3.0 < high < 3.5 < math.log(64)


def test_the_same_seed_makes_the_same_dummy():
    state = torch.random.get_rng_state()
    first, again, other = (build_dummy("cpu", seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = zip(
        *(one.transformer.state_dict().values() for one in (first, again, other)), strict=True
    )
    equal = [(torch.equal(one, two), torch.equal(one, three)) for one, two, three in pairs]
    assert all(same for same, _ in equal)
    assert not all(same for _, same in equal)


def test_every_scenario_meets_every_point(counts):
    assert set(counts) == set(itertools.product(SCENARIOS, THRESHOLDS, LIMITS))


def test_the_baseline_never_reuses(counts):
    assert {counts["baseline", tau, limit] for tau in THRESHOLDS for limit in LIMITS} == {0}


def test_the_lowest_threshold_refuses_all(talk, counts):
    assert {counts["dqar", THRESHOLDS[0], limit] for limit in LIMITS} == {0}
    (point,) = [one for one in talk.points if tuple(one.setting.values()) == ("dqar", 1.5, 6)]
    assert point.runs[0]["by_reason"]["entropy"] > 0


def test_the_static_ceiling_is_every_gate_but_the_first_steps(counts):
    ceiling = {counts["static", tau, limit] for tau in THRESHOLDS for limit in LIMITS}
    assert ceiling == {GATES - 6}


def test_dqar_lies_between_and_grows_with_the_threshold(counts):
    for limit in LIMITS:
        grown = [counts["dqar", tau, limit] for tau in THRESHOLDS]
        assert grown == sorted(grown)
        assert 0 < counts["dqar", 3.0, limit] < counts["dqar", 5.0, limit] < GATES - 6


def test_a_larger_limit_reuses_more(counts):
    assert counts["dqar", 5.0, 2] < counts["dqar", 5.0, 6]


def test_every_gate_has_a_reason(talk):
    for point in talk.points:
        if point.setting["scenario"] != "baseline":
            reasons = point.runs[0]["by_reason"]
            assert sum(reasons.values()) == GATES
            assert reasons.get("reuse", 0) == point.runs[0]["reuse_count"]


def test_a_run_keeps_time_memory_and_cache(talk):
    for point in talk.points:
        (run,) = point.runs
        assert run["runtime_ms"] > 0
        assert 0 < run["rss_mb"] <= peak_resident_mb() + 1
        assert (run["cache_mb"] > 0) == (point.setting["scenario"] != "baseline")
        if point.setting["scenario"] == "baseline":
            assert run["speedup"] == 1.0


@pytest.fixture(scope="module")
def bench():
    return DummyBench(ThresholdConfig(steps=4, runs=1))


def test_the_cache_and_the_sites_are_the_talks(bench):
    config, talk = bench.runner.controller(NeverReuse()).config, DQARConfig.slides()
    gates = {"entropy_threshold": talk.entropy_threshold, "snr_high": talk.snr_high}
    assert replace(config, **gates) == talk


def test_memory_is_the_most_of_the_start_and_of_every_step(bench, monkeypatch):
    seen = iter([3.0, 1.0, 7.0, 2.0, 5.0])
    monkeypatch.setattr("pipeline.evaluate.sweeps.dummy_dit.resident_mb", lambda: next(seen))
    (baseline, *_) = scenarios(DQARConfig.slides())
    assert bench.profile(baseline, 0)["rss_mb"] == 7.0
    assert next(seen, None) is None


def test_a_speed_up_is_over_the_baseline_of_the_same_run(bench):
    rows = [{"runtime_ms": ms} for ms in (6.0, 2.0, 12.0)]
    compared = bench.compare(scenarios(DQARConfig.slides()), rows)
    assert [row["speedup"] for row in compared] == [1.0, 3.0, 0.5]
