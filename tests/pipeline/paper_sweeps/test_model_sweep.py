"""The seed's experiments, on counts that follow from arithmetic; no assertion on the clock."""

import itertools
import math

import pytest
import torch

from pipeline.cluster.hardware import describe_machine, peak_resident_mb, resident_mb
from pipeline.paper_sweeps import dummy_dit
from pipeline.paper_sweeps.grids import GRIDS, AblationGrid, ScheduleGrid, schedule_ratio
from pipeline.paper_sweeps.model_sweep import SweepConfig, observe_entropy, sweep_model
from pipeline.paper_sweeps.threshold_sweep import SCENARIOS, ThresholdConfig, sweep_thresholds

THRESHOLDS = (1.5, 2.6, 3.0, 5.0)
LIMITS = (2, 6)
GATES = 6 * 12
SEED_PERCENT = [11.57, 18.71, 24.50, 28.71, 38.71]


@pytest.fixture(scope="module")
def talk():
    """The talk's sweep on a finer grid of thresholds, one run of each point."""
    config = ThresholdConfig(thresholds=THRESHOLDS, reuse_limits=LIMITS, runs=1)
    return sweep_thresholds(config)


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
    first, again, other = (dummy_dit.build_dummy("cpu", seed) for seed in (0, 0, 1))
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


def test_the_seeds_layer_fractions_give_its_ratios():
    schedules = GRIDS["layer-fraction"].schedules()
    ratios = [100 * schedule_ratio(one, num_layers=28, steps=50) for one in schedules]
    assert ratios == pytest.approx(SEED_PERCENT, abs=0.01)


@pytest.mark.parametrize(("num_layers", "steps"), [(28, 50), (8, 6)])
def test_both_directions_reuse_alike(num_layers, steps):
    schedules = GRIDS["direction"].schedules()
    half = len(schedules) // 2
    assert [one.schedule_type for one in schedules] == ["linear"] * half + ["linear-reverse"] * half
    ratios = [schedule_ratio(one, num_layers=num_layers, steps=steps) for one in schedules]
    assert ratios[:half] == ratios[half:]


def test_a_longer_warm_up_reuses_less():
    schedules = GRIDS["warmup"].schedules()
    assert [one.warmup_fraction for one in schedules] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert {one.layer_fraction for one in schedules} == {1 / 3}
    ratios = [schedule_ratio(one, num_layers=28, steps=50) for one in schedules]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[1] == pytest.approx(0.1157, abs=1e-4)


def tiny(kind, grid, **changes):
    fields = {"steps": 6, "num_samples": 3, "guidance_scale": 2.0, "runs": 2, **changes}
    return SweepConfig(kind=kind, grid=grid, **fields)


@pytest.fixture(scope="module")
def directions():
    grid = ScheduleGrid(
        schedule_types=("linear", "linear-reverse"), layer_fractions=(0.5, 1.0), cache_bits=32
    )
    return sweep_model(tiny("direction", grid)).points


def test_the_baseline_is_its_own_twin(directions):
    for run in directions[0].runs:
        assert (run["reuse_ratio"], run["latent_rel_l2"], run["fid_change"]) == (0.0, 0.0, 0.0)
        assert (run["flops_ratio"], run["cache_mb"]) == (1.0, 0.0)


def test_measured_reuse_is_the_schedules(directions):
    for point in directions:
        for run in point.runs:
            assert run["reuse_ratio"] == pytest.approx(point.facts["reuse_ratio_by_schedule"])
    assert directions[-1].facts["reuse_ratio_dit_xl"] == pytest.approx(0.3871, abs=1e-4)
    assert directions[-1].facts["reuse_ratio_by_schedule"] > 0


def test_each_run_has_noise_of_its_own(directions):
    for point in directions[1:]:
        errors = [run["latent_rel_l2"] for run in point.runs]
        assert min(errors) > 0
        assert len(set(errors)) == len(errors)


def test_all_points_keep_the_same_figures(directions):
    assert len({tuple(point.figures()) for point in directions}) == 1
    assert {"speedup", "latent_rel_l2", "fid_change", "cache_mb"} <= set(directions[0].figures())


@pytest.fixture(scope="module")
def ablations():
    sweep = sweep_model(tiny("ablations", AblationGrid(entropy_quantile=1.0), steps=20, runs=1))
    return {point.setting["ablation"]: point.runs[0] for point in sweep.points}


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
    sweep = sweep_model(tiny("ablations", grid, runs=1))
    assert sweep.facts == {"entropy_threshold": 1e-3}
    (point,) = sweep.points
    assert point.runs[0]["reuse_ratio"] == 0.0
    # Without the baseline among them there is nothing to compare FID with.
    assert point.runs[0]["fid_change"] is None


@pytest.mark.parametrize(
    ("build", "fields", "said"),
    [
        (ThresholdConfig, {"thresholds": ()}, "thresholds must be"),
        (ThresholdConfig, {"reuse_limits": (2, 0)}, "reuse_limits must be"),
        (ThresholdConfig, {"runs": 0}, "runs must be at least 1"),
        (ThresholdConfig, {"max_gap": 0}, "max_gap must be at least 1"),
        (ThresholdConfig, {"steps": 1}, "steps must be in"),
        (ScheduleGrid, {"warmups": (1.5,)}, "warmup_fraction must be in"),
        (ScheduleGrid, {"layer_fractions": ()}, "layer_fractions must hold"),
        (AblationGrid, {"ablations": ()}, "ablations must hold"),
        (AblationGrid, {"ablations": ("magic",)}, "ablations must be among"),
        (AblationGrid, {"entropy_quantile": 1.1}, "entropy_quantile must be in"),
        (AblationGrid, {"entropy_threshold": 0.0}, "entropy_threshold must be positive"),
        (SweepConfig, {"kind": "warmup", "grid": ScheduleGrid(), "runs": 0}, "runs must be"),
        (SweepConfig, {"kind": "warmup", "grid": ScheduleGrid(), "steps": 1}, "steps must be"),
    ],
)
def test_configurations_out_of_range_are_refused(build, fields, said):
    with pytest.raises(ValueError, match=said):
        build(**fields)


def test_the_machine_is_described():
    machine = describe_machine("cpu")
    assert machine["cpu"]
    assert machine["gpu"] is None
    assert machine["cores"] >= 1
    assert machine["torch"] == torch.__version__
    assert machine["date"].endswith("+00:00")
    assert 0 < resident_mb() <= peak_resident_mb() + 1
