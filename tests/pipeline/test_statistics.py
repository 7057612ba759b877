"""Means and medians with their 95% intervals, against SciPy and worked examples."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.statistics import (
    median_rank,
    median_spread_of,
    normal_interval,
    normal_spread_of,
    ratio_of,
    spread_of,
    standard_error,
)


def test_a_spread_by_hand():
    spread = spread_of([9.0, 10.0, 11.0])
    assert (spread.mean, spread.std, spread.count) == (10.0, 1.0, 3)
    # Student's t at 97.5% with two degrees of freedom is 4.302653.
    assert spread.half_width == pytest.approx(4.302653 / math.sqrt(3))
    assert spread.ci95 == pytest.approx((10 - spread.half_width, 10 + spread.half_width))


def test_one_run_has_no_spread():
    spread = spread_of([7])
    assert (spread.mean, spread.std, spread.ci95, spread.half_width) == (7.0, None, None, 0.0)


def test_equal_runs_have_no_spread():
    assert spread_of([0.2025] * 5).std == 0.0


def test_no_run_has_no_mean():
    with pytest.raises(ValueError, match="at least one number"):
        spread_of([])


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=20, unique=True))
def test_the_interval_is_that_of_the_t_test(values):
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert spread_of(values).ci95 == pytest.approx((interval.low, interval.high))


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=10), st.floats(0.1, 10), st.floats(-50, 50)
)
def test_a_spread_moves_and_scales_with_its_runs(values, scale, shift):
    before, after = spread_of(values), spread_of([scale * value + shift for value in values])
    assert after.mean == pytest.approx(scale * before.mean + shift, abs=1e-6)
    assert after.half_width == pytest.approx(scale * before.half_width, abs=1e-6)


def test_many_values_have_the_normal_interval():
    spread = normal_spread_of([9.0, 10.0, 11.0, 10.0])
    error = standard_error(40.0, 402.0, 4)
    assert error == pytest.approx(statistics.stdev([9, 10, 11, 10]) / 2)
    assert spread.ci95 == pytest.approx(normal_interval(10.0, error))
    assert spread.half_width == pytest.approx(1.96 * error)
    assert spread.half_width < spread_of([9.0, 10.0, 11.0, 10.0]).half_width


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_an_error_from_sums_is_that_of_the_values(values):
    error = standard_error(sum(values), sum(value**2 for value in values), len(values))
    assert error == pytest.approx(float(stats.sem(values)), abs=1e-4)


def test_sums_of_one_or_of_equal_values_have_no_error():
    assert standard_error(7.0, 49.0, 1) == 0.0
    assert standard_error(3 * 0.1, 3 * 0.1**2, 3) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize(
    ("form", "text"), [(".2f", "10.00 ± 2.48"), ("+.1f", "+10.0 ± 2.5"), (".0f", "10 ± 2")]
)
def test_a_spread_is_shown_with_half_of_its_interval(form, text):
    assert spread_of([9.0, 10.0, 11.0]).shown(form) == text


def test_a_single_value_is_shown_without_any_spread():
    assert spread_of([0.01]).shown(".4f") == "0.0100 ± 0.0000"


@pytest.mark.parametrize("count", [*range(6, 60), 100, 301])
def test_the_interval_of_a_median_is_that_of_scipys_quantile_test(count):
    values = [float(index) for index in range(count)]
    interval = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    spread = median_spread_of(values)
    assert (spread["low"], spread["high"]) == (interval.low, interval.high)
    assert median_rank(count) == stats.binom.ppf(0.025, count, 0.5) - 1


@pytest.mark.parametrize("count", range(1, 6))
def test_few_values_give_their_range(count):
    assert median_rank(count) == 0


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=40))
def test_median_lies_in_its_interval(values):
    spread = median_spread_of(values)
    assert min(values) <= spread["low"] <= spread["median"] <= spread["high"] <= max(values)


def test_ratio_is_taken_within_the_round():
    slow_minutes = [1.0, 50.0, 3.0, 7.0, 0.2, 9.0]
    halves = [seconds / 2 for seconds in slow_minutes]
    assert ratio_of(slow_minutes, halves) == {"median": 2.0, "low": 2.0, "high": 2.0}


def test_rounds_of_different_numbers_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        ratio_of([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="Time at least one round"):
        ratio_of([], [])


def test_the_import_loads_neither_torch_nor_scipy():
    code = "import sys, pipeline.statistics; print({'torch', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
