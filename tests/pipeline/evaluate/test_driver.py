"""Evaluation worker without Ray: rows whose values follow from arithmetic."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch

from dqar.gates.rules import Interval, Learned
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from pipeline.evaluate.accumulator import MetricAccumulator
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.driver import id_of
from pipeline.evaluate.flops import entropy_flops, feedback_flops, policy_flops, transformer_flops
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.base import COARSE, Comparison, OperatingPoint
from pipeline.methods.calibration import CalibrationTask
from pipeline.methods.fewer_steps import fewer_steps_points
from pipeline.methods.interval import interval_points

STEPS, SAMPLES = 6, 6
ROUNDING = 1e-5
"""Largest relative L2 distance between a run and its reference sample in a batch of another size,
where kernels round differently."""
CONTRACT = {
    "method": str,
    "operating_point": str,
    "sites": str,
    "balanced": bool,
    "quantize_keys": bool,
    "cross_branch_threshold": float,
    "reuse_ratio": float,
    "flops_ratio": float,
    "speedup": float,
    "latency_s": float,
    "latent_rel_l2": float,
    "latent_rel_l2_ci95": list,
    "latent_rel_l2_p90": float,
    "latent_rel_l2_worst": float,
    "latent_rel_l2_samples": list,
    "psnr": float,
    "ssim": float,
    "fid": float,
    "fid_features": str,
    "cache_mb": float,
    "peak_memory_mb": float,
    "num_samples": int,
    "steps": int,
    "guidance": float,
    "model": str,
    "device": str,
    "dtype": str,
    "seed": int,
    "calibration_trajectories": int,
    "tuning_evaluations": int,
}


@pytest.fixture(scope="module", params=[("attn",), ("attn", "ff")], ids=",".join)
def evaluator(request):
    return EvaluationWorker(
        EvaluateConfig(
            model="digits",
            steps=STEPS,
            guidance_scale=2.0,
            sites=request.param,
            num_samples=SAMPLES,
            batch_size=4,
        )
    )


@pytest.fixture(scope="module")
def baseline(evaluator):
    return evaluator.measure(OperatingPoint(method="baseline", operating_point="twin", steps=STEPS))


@pytest.fixture(scope="module")
def interval(evaluator):
    return evaluator.measure(interval_points(COARSE, STEPS)[0])


def test_rows_hold_the_contract(baseline, interval):
    for row in (baseline.row, interval.row):
        for key, kind in CONTRACT.items():
            assert key in row
            assert row[key] is None or isinstance(row[key], kind), key


def test_the_baseline_is_its_own_twin(baseline):
    row = baseline.row
    assert row["latent_rel_l2"] == 0.0
    assert row["latent_rel_l2_ci95"] == [0.0, 0.0]
    assert row["reuse_ratio"] == 0.0
    assert row["flops_ratio"] == 1.0
    # The batched means and covariances of equal images may differ by rounding.
    assert (row["psnr"], row["ssim"]) == (pytest.approx(100.0), pytest.approx(1.0, abs=ROUNDING))
    assert row["cache_mb"] is None
    assert (baseline.images == baseline.reference_images).all()


def test_every_second_step_is_half_of_the_gates(interval, evaluator):
    row = interval.row
    assert row["reuse_ratio"] == 0.5
    assert row["latent_rel_l2"] > 0
    assert row["sites"] == ",".join(evaluator.config.sites)
    low, high = row["latent_rel_l2_ci95"]
    assert low < row["latent_rel_l2"] < high
    assert row["cache_mb"] > 0


def test_flops_by_hand(interval, evaluator):
    info = evaluator.model.info
    forward = transformer_flops(evaluator.model)
    saved = 0.5 * info.num_layers * sum(info.site_flops[site] for site in evaluator.config.sites)
    assert interval.row["flops_ratio"] == pytest.approx(forward / (forward - saved))


def test_a_shared_gate_saves_one_branch(interval, evaluator):
    config = replace(evaluator.config, cross_branch_threshold=float("inf"))
    row = EvaluationWorker(config).measure(interval_points(COARSE, STEPS)[0]).row
    info = evaluator.model.info
    inside = info.num_layers * sum(info.site_flops[site] for site in evaluator.config.sites)
    forward = transformer_flops(evaluator.model)
    # Of 6 steps, the first computes both guidance branches, 3 reuse both, 2 compute one for both.
    saved = (3 + 2 / 2) / STEPS * inside
    assert row["cross_branch_threshold"] == float("inf")
    assert row["reuse_ratio"] == interval.row["reuse_ratio"]
    assert row["flops_ratio"] == pytest.approx(forward / (forward - saved))
    assert row["flops_ratio"] > interval.row["flops_ratio"]


def test_a_shared_gate_is_half_a_skip():
    metrics = MetricAccumulator(
        gates=8, reused_by_site=Counter(attn=2), shared_by_site=Counter(attn=1, ff=2)
    )
    assert metrics.skipped_by_site(("attn", "ff"), 2) == {"attn": 2.5 / 4, "ff": 1 / 4}


def test_blocks_of_the_digits_model_are_most_of_its_flops(evaluator):
    info = evaluator.model.info
    inside = info.num_layers * info.site_flops["block"]
    forward = transformer_flops(evaluator.model)
    assert 0.5 * forward < inside < forward


def test_fewer_steps_save_flops_and_no_gates(evaluator):
    half = next(one for one in fewer_steps_points(COARSE, STEPS) if one.steps == STEPS // 2)
    row = evaluator.measure(half).row
    assert (row["steps"], row["reuse_ratio"]) == (3, 0.0)
    assert row["flops_ratio"] == pytest.approx(2.0)
    assert row["latent_rel_l2"] > 0


def test_a_longer_period_reuses_more_and_errs_more(evaluator):
    rows = [
        evaluator.measure(
            OperatingPoint(method="i", operating_point="p", steps=STEPS, gate=Interval(n))
        ).row
        for n in (2, 3, 6)
    ]
    assert [row["reuse_ratio"] for row in rows] == pytest.approx([1 / 2, 2 / 3, 5 / 6])
    for key in ("latent_rel_l2", "flops_ratio"):
        assert all(one[key] < other[key] for one, other in itertools.pairwise(rows))


def test_the_same_point_measures_the_same(evaluator, interval):
    again = evaluator.measure(interval_points(COARSE, STEPS)[0])
    for key in ("latent_rel_l2", "reuse_ratio", "flops_ratio", "psnr", "ssim", "fid"):
        assert again.row[key] == interval.row[key]


def test_batches_do_not_change_figures(evaluator, interval):
    config = evaluator.config
    other = EvaluationWorker(
        EvaluateConfig(
            model="digits",
            steps=STEPS,
            guidance_scale=2.0,
            sites=config.sites,
            num_samples=SAMPLES,
            batch_size=6,
        )
    ).measure(interval_points(COARSE, STEPS)[0])
    assert other.row["latent_rel_l2"] == pytest.approx(interval.row["latent_rel_l2"], rel=1e-3)


def test_a_probes_parameter_differs_by_sample(evaluator):
    policy = ReusePolicy(PolicySpec(sites=evaluator.config.sites))
    thresholds = torch.tensor([-1e6, 1e6, 1e6])
    gate = Learned(policy, log_threshold=thresholds)
    probed = evaluator.calibrate(CalibrationTask(name="p", gate=gate, num_samples=3))
    expected = torch.tensor([0.0, (STEPS - 1) / STEPS, (STEPS - 1) / STEPS])
    torch.testing.assert_close(probed.reuse_ratio, expected)
    # Sample 0 computes everything, though in another batch than its reference sample.
    assert probed.error[0] < ROUNDING
    assert (probed.error[1:] > 0).all()
    torch.testing.assert_close(probed.share.mean(), expected.mean())
    assert probed.snrs == sorted(probed.snrs)


def test_probes_on_one_noise_share_its_twin(evaluator):
    gate = Interval(2)
    probe = CalibrationTask(name="p", gate=gate, num_samples=4, noise_ids=(5, 5, 9, 9))
    error = evaluator.calibrate(probe).error
    torch.testing.assert_close(error[0], error[1])
    torch.testing.assert_close(error[2], error[3])
    assert not torch.isclose(error[0], error[2])


def test_flops_of_small_parts():
    assert policy_flops(ReusePolicy()) == 2.0 * (5 * 32 + 32 * 32 + 32)
    assert entropy_flops(32, 256, 64) == 2.0 * 32 * 256 * 64
    assert entropy_flops(32, 16, 64) == 2.0 * 16 * 16 * 64


def test_points_have_ids():
    points = interval_points(COARSE, 50) + fewer_steps_points(COARSE, 50)
    assert len({id_of(point) for point in points}) == len(points)
    assert Comparison(methods=(), policies={}, grid=COARSE).grid is COARSE


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ("num_samples", {"num_samples": 0}),
        ("batch_size", {"batch_size": 0}),
        ("steps", {"steps": 1}),
        ("guidance_scale must be finite", {"guidance_scale": float("nan")}),
        ("guidance_scale must be finite", {"guidance_scale": float("inf")}),
        ("salience_balancing must", {"balanced": True, "sites": ("block",)}),
        ("salience_balancing must", {"balanced": True, "cache_bits": 16}),
        ("fp16_keys must", {"quantize_keys": False}),
        ("fp16_keys must", {"quantize_keys": False, "cached": "kv", "cache_bits": 32}),
        ("two guidance branches", {"cross_branch_threshold": 0.1, "guidance_scale": 1.0}),
    ],
)
def test_settings_out_of_range_or_without_effect_are_refused(said, fields):
    with pytest.raises(ValueError, match=said):
        EvaluateConfig(model="digits", **fields)


def test_settings_with_their_counterparts_pass():
    EvaluateConfig(model="digits", balanced=True, cache_bits=4, sites=("attn", "ff"))
    EvaluateConfig(model="digits", balanced=True, quantize_keys=False, cached="kv", cache_bits=2)


def test_flops_of_feedback_are_of_the_whole_output(evaluator):
    info = replace(evaluator.model.info, latent_shape=(4, 6, 6), out_channels=8, num_layers=5)
    config = replace(evaluator.config, sites=("attn", "ff"), feedback=0.5)
    # 30 decisions are three steps of ten.
    assert (
        feedback_flops(config, info, MetricAccumulator(gates=30), branches=2)
        == 6 * (8 * 6 * 6) * 2 * 3
    )
    assert (
        feedback_flops(replace(config, feedback=0.0), info, MetricAccumulator(gates=30), branches=2)
        == 0
    )
