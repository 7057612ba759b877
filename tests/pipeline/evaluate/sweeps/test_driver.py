"""Sweeps on a trained model, on figures that follow from arithmetic; no assertion on the clock."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate.sweeps.config import SweepConfig, ThresholdConfig
from pipeline.evaluate.sweeps.driver import observe_entropy, rotated, sweep
from pipeline.evaluate.sweeps.dummy_dit import DummyBench
from pipeline.evaluate.sweeps.flags import AblationGrid
from pipeline.evaluate.sweeps.grids import GridPoint, ScheduleGrid


@given(st.integers(1, 7), st.integers(0, 30))
def test_orders_rotate(count, run):
    items = list(range(count))
    assert sorted(rotated(items, run)) == items
    assert {rotated(items, run + later)[0] for later in items} == set(items)


ORDER: list[str] = []
"""Points in the order in which they were measured."""


class RecordingBench(DummyBench):
    """Two groups of points; a row is the name of its point and the run."""

    def __init__(self, config):
        ORDER.clear()

    def lay_out(self):
        return [[GridPoint(setting={"name": name}) for name in group] for group in ("abc", "d")], {}

    def start(self, run):
        def measure(point):
            ORDER.append(f"{point.setting['name']}{run}")
            return {"row": ORDER[-1]}

        return measure

    def compare(self, group, rows):
        return [row | {"beside": len(group)} for row in rows]


def test_groups_are_measured_one_by_one_and_each_run_starts_at_another_point(monkeypatch):
    monkeypatch.setattr("pipeline.evaluate.sweeps.driver.DummyBench", RecordingBench)
    points = sweep(ThresholdConfig(runs=2)).points
    assert ORDER == ["a0", "b0", "c0", "b1", "c1", "a1", "d0", "d1"]
    assert [[row["row"] for row in point.runs] for point in points] == [
        [f"{name}0", f"{name}1"] for name in "abcd"
    ]
    assert [point.runs[0]["beside"] for point in points] == [3, 3, 3, 1]


def tiny(kind, grid, **changes):
    fields = {"steps": 6, "num_samples": 3, "guidance_scale": 2.0, "runs": 2, **changes}
    return SweepConfig(kind=kind, grid=grid, **fields)


@pytest.fixture(scope="module")
def directions():
    grid = ScheduleGrid(
        schedule_types=("linear", "linear-reverse"),
        warmups=(0.2,),
        layer_fractions=(0.5, 1.0),
        cache_bits=32,
    )
    return sweep(tiny("direction", grid)).points


def test_the_baseline_equals_its_reference_samples(directions):
    for run in directions[0].runs:
        assert (run["reuse_ratio"], run["latent_rel_l2"], run["fid_change"]) == (0.0, 0.0, 0.0)
        assert (run["flops_ratio"], run["cache_mb"]) == (1.0, 0.0)


def test_measured_reuse_is_the_schedules(directions):
    for point in directions:
        for run in point.runs:
            assert run["reuse_ratio"] == pytest.approx(point.facts["reuse_ratio_by_schedule"])
    assert directions[-1].facts["reuse_ratio_dit_xl"] == pytest.approx(0.3871, abs=1e-4)
    assert directions[-1].facts["reuse_ratio_by_schedule"] > 0


def test_runs_differ_in_their_noise_samples(directions):
    for point in directions[1:]:
        errors = [run["latent_rel_l2"] for run in point.runs]
        assert min(errors) > 0
        assert len(set(errors)) == len(errors)


def test_all_points_keep_the_same_figures(directions):
    assert len({tuple(point.figures()) for point in directions}) == 1
    assert {"speedup", "latent_rel_l2", "fid_change", "cache_mb"} <= set(directions[0].figures())


@pytest.fixture(scope="module")
def ablations():
    found = sweep(tiny("ablations", AblationGrid(entropy_quantile=1.0), steps=20, runs=1))
    return {point.setting["ablation"]: point.runs[0] for point in found.points}


def test_ablations_reuse_what_their_gates_say(ablations):
    assert ablations["baseline"]["reuse_ratio"] == 0.0
    assert ablations["quant_cache"]["reuse_ratio"] == 0.5
    # The layer schedule can only take away, and an int8 cache changes no schedule.
    assert ablations["full_dqar"]["reuse_ratio"] <= ablations["entropy_gate"]["reuse_ratio"]
    assert ablations["full_dqar"]["reuse_ratio"] > 0


def test_an_int8_cache_is_a_quarter_of_an_fp32_one(ablations):
    values = ablations["entropy_gate"]["cache_mb"] * 2**20
    for name in ("quant_cache", "full_dqar"):
        scales = ablations[name]["cache_mb"] * 2**20 - values / 4
        # A 4-byte scale for each of 8 layers, 3 samples, 2 branches.
        assert scales == pytest.approx(4 * 8 * 3 * 2)


def test_tau_is_the_quantile_of_the_observed_entropy():
    config = tiny("ablations", AblationGrid())
    observed = [observe_entropy(config, quantile) for quantile in (0.0, 0.5, 1.0)]
    low, middle, high = (one["entropy_threshold"] for one in observed)
    assert low == pytest.approx(observed[0]["entropy_min"], rel=1e-5)
    assert high == pytest.approx(observed[0]["entropy_max"], rel=1e-5)
    assert 0 < low < middle < high < math.log(16)


def test_a_given_tau_is_taken_as_it_is():
    grid = AblationGrid(ablations=("entropy_gate",), entropy_threshold=1e-3)
    found = sweep(tiny("ablations", grid, runs=1))
    assert found.facts == {"entropy_threshold": 1e-3}
    (point,) = found.points
    assert point.runs[0]["reuse_ratio"] == 0.0
    # Without the baseline among them there is nothing to compare FID with.
    assert point.runs[0]["fid_change"] is None
