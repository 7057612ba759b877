"""Site ``stack``: collection, training, planning and evaluation without Ray, and its FLOPs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dqar.gates.rules import Interval, MaskGate, NeverReuse
from dqar.policy.serialization import load_policy
from dqar.schedules.policy_plan import plan_of_policy
from pipeline.collect.worker import Collector
from pipeline.evaluate.accumulator import MetricAccumulator
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.flops import feedback_flops, saved_flops, transformer_flops
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.exploration.designs import parse_designs
from pipeline.methods.base import OperatingPoint
from pipeline.methods.site_hooks import hook_sites, skipped_spans
from pipeline.methods.site_mixing import patch_with_mixing
from pipeline.methods.smoothcache import CurveTask
from pipeline.models.model_info import find_model
from pipeline.traces import read_gates
from pipeline.traces.commit import claim_output, write_manifest
from pipeline.traces.multi_dataset import open_traces
from pipeline.train.config import OF_SEVERAL_GATES, TrainConfig
from pipeline.train.train import save_trained, train

STEPS, LAYERS, SAMPLES, TRAJECTORIES = 6, 8, 4, 24


# Collected.


@pytest.fixture(scope="module")
def stack_traces(tmp_path_factory) -> Path:
    """Finished collection of 24 trajectories in two units, with designs that draw by gate too."""
    info = find_model("digits")
    plan = CollectPlan(
        model="digits",
        model_hash=info.model_hash,
        num_trajectories=TRAJECTORIES,
        batch_size=12,
        steps=STEPS,
        guidance_scale=info.guidance_scale,
        sites=("stack",),
        designs=parse_designs("paced,independent,layer-blocked"),
        forecast_orders=(0, 1),
    )
    root = tmp_path_factory.mktemp("traces") / "stack"
    claim_output(root, plan)
    collector = Collector(plan, str(root))
    receipts = {unit.unit_id: collector.do(unit) for unit in plan.units()}
    facts = {"num_layers": info.num_layers, "site_flops": info.site_flops}
    write_manifest(root, plan, receipts, facts)
    return root


@pytest.fixture(scope="module")
def gates(stack_traces) -> dict[str, np.ndarray]:
    table = read_gates(str(stack_traces))
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def test_each_step_is_one_gate_exactly_once(gates):
    places = list(zip(gates["trajectory_id"], gates["step"], strict=True))
    assert len(places) == len(set(places)) == TRAJECTORIES * STEPS
    assert set(gates["site"]) == {"stack"}
    assert set(gates["layer"]) == {0}
    assert set(gates["action"]) == {"compute", "reuse", "forecast1"}


def test_each_step_is_one_random_draw(gates):
    independent = gates["step"] * 0 + gates["draw_id"]
    for trajectory in set(gates["trajectory_id"]):
        draws = independent[gates["trajectory_id"] == trajectory]
        assert len(draws) == STEPS
        assert len(set(draws)) <= STEPS


def test_a_stack_is_seen_with_its_features(gates):
    later = gates["step"] > 0
    assert (gates["entropy"][later] > 0).all()
    assert (gates["entropy"][later] <= np.log(16) + 1e-5).all()
    assert (gates["quant_error"][later] > 0).all()
    assert (gates["local_rel_error"][later] > 0).all()
    assert set(gates["depth"]) == {0}
    # The share of the previous step's gates: 1 if that step reused.
    assert (gates["share_attn"] == gates["share_ff"]).all()
    assert ((gates["share_attn"] == 1) == (np.exp(gates["log_gap"]) > 1.5)).all()


# Trained.


@pytest.fixture(scope="module")
def policy(stack_traces, tmp_path_factory):
    """Policy that was trained, saved and loaded."""
    folder = tmp_path_factory.mktemp("policy")
    save_trained(train(TrainConfig(members=1), open_traces(stack_traces)), folder, {})
    return load_policy(folder)


def test_policy_plans_whole_steps(policy):
    assert policy.spec.sites == ("stack",)
    assert policy.spec.savings == {"stack": 1.0}
    assert policy.spec.num_layers == LAYERS
    plan = plan_of_policy(policy)
    assert (plan.num_layers, plan.mask.shape) == (LAYERS, (STEPS, 1))


@pytest.mark.parametrize("granularity", ["gate", "step"])
def test_policy_that_decides_step_by_step_reads_nothing_of_several_gates(
    stack_traces, granularity, measure
):
    config = TrainConfig(features="full", granularity=granularity, members=1)
    assert set(OF_SEVERAL_GATES) <= set(config.names)
    trained = train(config, open_traces(stack_traces)).policy
    assert set(trained.spec.features).isdisjoint(OF_SEVERAL_GATES)
    assert len(trained.spec.features) == len(config.names) - len(OF_SEVERAL_GATES)
    assert 0 <= measure_policy(measure, trained)["reuse_ratio"] < 1


def measure_policy(measure, policy):
    from dqar.gates.rules import Learned

    return measure(Learned(policy, log_threshold=1e6))


# Evaluated.


@pytest.fixture(scope="module")
def evaluator():
    config = EvaluateConfig(
        model="digits",
        steps=STEPS,
        guidance_scale=2.0,
        sites=("stack",),
        num_samples=SAMPLES,
        batch_size=SAMPLES,
    )
    return EvaluationWorker(config)


@pytest.fixture(scope="module")
def measure(evaluator):
    """Function that measures a gate and returns its row."""

    def row_of(gate) -> dict[str, Any]:
        point = OperatingPoint(method="m", operating_point="p", steps=STEPS, gate=gate)
        return evaluator.measure(point).row

    return row_of


@pytest.fixture(scope="module")
def every_second(measure):
    return measure(Interval(2))


def test_every_second_step_skips_all_blocks(every_second, evaluator):
    info = evaluator.model.info
    assert info.site_flops["stack"] == LAYERS * info.site_flops["block"]
    whole, inside = transformer_flops(evaluator.model), info.site_flops["stack"]
    assert 0.99 < inside / whole < 1
    assert every_second["reuse_ratio"] == 0.5
    assert every_second["flops_ratio"] == pytest.approx(whole / (whole - 0.5 * inside))
    assert every_second["sites"] == "stack"
    assert 0 < every_second["latent_rel_l2"] < 1
    # Two guidance branches per sample, one int8 per channel and one float32 scale per row.
    held = 2 * SAMPLES * (info.num_tokens * info.width + 4)
    assert every_second["cache_mb"] == held / 2**20


def test_closed_stack_is_the_reference(measure):
    row = measure(NeverReuse())
    assert (row["latent_rel_l2"], row["reuse_ratio"], row["flops_ratio"]) == (0.0, 0.0, 1.0)


def test_bound_is_that_of_the_stacks_share(every_second, evaluator):
    share = evaluator.site_share
    assert set(share) == {"stack"}
    assert 0 < share["stack"] < 1
    assert every_second["speedup_bound"] == pytest.approx(1 / (1 - 0.5 * share["stack"]))


def test_feedback_is_counted_once_a_step(evaluator):
    info = evaluator.model.info
    config = evaluator.config.with_reuse_setting(0, 0.5)
    metrics = MetricAccumulator(gates=STEPS * SAMPLES)
    elements = info.out_channels * info.latent_shape[1] * info.latent_shape[2]
    assert feedback_flops(config, info, metrics, 2) == 6 * elements * 2 * STEPS * SAMPLES
    metrics.reused_by_site["stack"] = 3
    assert saved_flops(config, info, metrics, 2) == 3 * 2 * info.site_flops["stack"]


def test_plan_that_is_known_before_sampling(measure):
    plan = torch.zeros(STEPS, 1, 1, dtype=torch.bool)
    plan[[2, 3, 5]] = True
    assert measure(MaskGate(plan))["reuse_ratio"] == pytest.approx(0.5)


# Methods that look at the sites of the stock model.


def test_one_span_holds_all_blocks(digits):
    blocks = digits.transformer.transformer_blocks
    assert skipped_spans(digits.transformer, "stack", "output") == [[(blocks[0], blocks[-1])]]


def call(digits) -> Any:
    """Output of the model for one row."""
    info, row = digits.info, torch.ones(1, dtype=torch.long)
    latents = torch.ones(1, *info.latent_shape)
    with torch.no_grad():
        return digits.transformer(latents, timestep=100 * row, class_labels=row).sample


def test_hooks_see_the_residual_of_the_stack(digits):
    seen, hidden, stock = [], [], call(digits)
    blocks = digits.transformer.transformer_blocks
    handles = [
        blocks[0].register_forward_pre_hook(lambda _, args: hidden.append(args[0])),
        blocks[-1].register_forward_hook(lambda _, __, output: hidden.append(output)),
    ]
    with hook_sites(digits.transformer, ("stack",), "output", lambda *given: seen.append(given)):
        assert torch.equal(call(digits), stock)
    for handle in handles:
        handle.remove()
    ((place, residual),) = seen
    assert place == (0, 0, 0)
    assert torch.equal(residual, hidden[1] - hidden[0])


def test_mixtures_of_the_stack_are_shown(digits):
    stock = call(digits)
    with patch_with_mixing(digits.transformer, ("stack",)) as mixer:
        assert torch.allclose(call(digits), stock, atol=1e-5)
        mixer.cached[0, 0] = torch.zeros_like(mixer.cached[0, 0])
        mixer.share = torch.zeros(1, 1)
        assert not torch.allclose(call(digits), stock, atol=1e-2)


def test_smoothcache_measures_one_curve(evaluator):
    curves = evaluator.calibrate(CurveTask(num_samples=2, at_once=2, largest_gap=2))
    assert curves.error.shape == (1, 1, 2, STEPS)
    assert (curves.error[0, 0, 0, 1:] > 0).all()
