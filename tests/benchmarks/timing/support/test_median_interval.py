"""Medians and their intervals; exponents of exact power laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.timing.support.median_interval import figures_of, to_digits
from benchmarks.timing.support.power_fit import exponent, exponent_figures


def test_figures_are_named_and_rounded():
    spread = {"median": 1.23456, "low": 0.000123456, "high": 1234.56}
    assert figures_of("speedup", spread) == {
        "speedup": 1.235,
        "speedup_ci95": [0.0001235, 1235.0],
    }
    assert to_digits(0.0) == 0.0


@given(st.floats(-3.0, 3.0), st.floats(1e-6, 1e3))
def test_exponent_of_an_exact_power(power, factor):
    sizes = [64, 256, 576, 1024]
    costs = [factor * size**power for size in sizes]
    assert exponent(sizes, costs) == pytest.approx(power, abs=1e-6)


def test_exponent_is_fitted_within_rounds_and_leaves_out_noise_below_nothing():
    pace = [1.0, 5.0, 0.3, -2.0]
    costs = {size: [factor * size**1.5 for factor in pace] for size in (1, 2, 4)}
    figures = exponent_figures(costs)
    assert figures == {"exponent": 1.5, "exponent_ci95": [1.5, 1.5], "rounds": 3}
    assert exponent_figures({1: [-1.0], 2: [1.0]}) is None


@pytest.mark.parametrize(
    ("sizes", "costs"), [([4, 4], [1.0, 1.0]), ([4], [1.0]), ([1, 2], [0.0, 1.0])]
)
def test_exponent_refuses_what_has_none(sizes, costs):
    with pytest.raises(ValueError, match="Got"):
        exponent(sizes, costs)
