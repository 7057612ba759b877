"""Comparison of the site ``stack`` with ``attn,ff`` on the same noise samples."""

import json

import pytest

from benchmarks.quality.stack_against_sites import (
    Measured,
    compare_sites,
    compared,
    errors_at,
    tables,
)
from pipeline.evaluate.config import EvaluateConfig


def measured(flops_ratio, errors) -> Measured:
    return Measured(
        sites=("stack",),
        order=0,
        computed=2,
        flops_ratio=flops_ratio,
        cache_mb=1.0,
        errors=errors,
    )


def test_errors_between_two_schedules_are_interpolated_in_logarithms():
    side = [measured(4.0, [0.4, 0.9]), measured(1.0, [0.1, 0.1])]
    assert errors_at(side, 2.0) == pytest.approx([0.2, 0.3])
    assert errors_at(side, 4.0) == pytest.approx([0.4, 0.9])


def test_samples_are_compared_in_pairs():
    row = compared([0.1, 0.2, 0.4], [0.2, 0.4, 0.8])
    assert row["difference"] == pytest.approx(0.7 / 3)
    assert row["ratio"] == pytest.approx(2)
    assert row["ratio_ci95"] == pytest.approx([2, 2])
    low, high = row["difference_ci95"]
    assert low < row["difference"] < high


def test_both_sites_on_the_shipped_model():
    config = EvaluateConfig(
        model="digits", steps=12, num_samples=2, batch_size=2, guidance_scale=2.0
    )
    result = json.loads(json.dumps(compare_sites(config, (6, 3)), allow_nan=False))
    rows = result["equal_steps"]
    assert [(row["order"], row["computed"]) for row in rows] == [
        (order, number) for order in (0, 1, 2) for number in (6, 3)
    ]
    for row in rows:
        # A skipped step of attn,ff computes the modulation of each block.
        assert row["stack_flops_ratio"] > row["sites_flops_ratio"] > 1
        assert row["stack_cache_mb"] == pytest.approx(row["sites_cache_mb"] / 16)
        assert 0.2 < row["ratio"] < 5
    assert {row["flops_ratio"] for row in result["equal_flops"]} == {2.0, 3.0}
    assert tables(result).count("\n") > 10
