"""Site ``block``: collection, training and evaluation without Ray, and its FLOPs."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dqar.gates.rules import Interval, Learned, MaskGate, NeverReuse
from dqar.policy.serialization import load_policy
from pipeline.collect.worker import Collector
from pipeline.errors import InputError
from pipeline.evaluate.accumulator import MetricAccumulator
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.flops import saved_flops, transformer_flops
from pipeline.evaluate.speed_bound import speed_bound
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.methods.base import OperatingPoint
from pipeline.methods.calibration import CalibrationTask
from pipeline.methods.site_hooks import skipped_spans
from pipeline.models.model_info import find_model
from pipeline.traces import read_gates
from pipeline.traces.commit import claim_output, write_manifest
from pipeline.traces.multi_dataset import open_traces
from pipeline.train.config import TrainConfig
from pipeline.train.train import save_trained, train

JOBS = Path(__file__).parents[3] / "jobs"
STEPS, LAYERS, SAMPLES = 6, 8, 4


# Collected.


@pytest.fixture(scope="module")
def block_traces(tmp_path_factory) -> Path:
    """Finished collection of 12 trajectories."""
    info = find_model("digits")
    plan = CollectPlan(
        model="digits",
        model_hash=info.model_hash,
        num_trajectories=12,
        batch_size=12,
        steps=STEPS,
        guidance_scale=info.guidance_scale,
        sites=("block",),
    )
    root = tmp_path_factory.mktemp("traces") / "block"
    claim_output(root, plan)
    collector = Collector(plan, str(root))
    receipts = {unit.unit_id: collector.do(unit) for unit in plan.units()}
    facts = {"num_layers": info.num_layers, "site_flops": info.site_flops}
    write_manifest(root, plan, receipts, facts)
    return root


@pytest.fixture(scope="module")
def gates(block_traces) -> dict[str, np.ndarray]:
    table = read_gates(str(block_traces))
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def test_every_gate_is_of_a_block(gates):
    assert len(gates["site"]) == 12 * STEPS * LAYERS
    assert set(gates["site"]) == {"block"}
    assert set(gates["layer"]) == set(range(LAYERS))
    assert set(gates["action"]) == {"compute", "reuse"}


def test_blocks_are_seen_with_all_features(gates):
    later = gates["step"] > 0
    assert (gates["entropy"][later] > 0).all()
    assert (gates["entropy"][later] <= np.log(16) + 1e-5).all()
    assert (gates["quant_error"][later] > 0).all()
    assert (gates["local_rel_error"][later] > 0).all()
    assert (gates["share_attn"] == gates["share_ff"]).all()
    assert gates["share_attn"].max() > 0


# Trained.


@pytest.fixture(scope="module")
def policy(block_traces, tmp_path_factory):
    """Policy that was trained, saved and loaded."""
    folder = tmp_path_factory.mktemp("policy")
    save_trained(train(TrainConfig(members=1), open_traces(block_traces)), folder, {})
    return load_policy(folder)


def test_policy_knows_blocks_alone(policy):
    assert policy.spec.sites == ("block",)
    assert policy.spec.savings == {"block": 1.0}
    assert policy.spec.num_layers == LAYERS


def test_traces_of_blocks_train_no_other_site(block_traces):
    with pytest.raises(InputError, match=r"\['attn'\].*Collect with those sites"):
        train(TrainConfig(sites=("attn",)), open_traces(block_traces))


# Evaluated.


@pytest.fixture(scope="module")
def evaluator():
    config = EvaluateConfig(
        model="digits",
        steps=STEPS,
        guidance_scale=2.0,
        sites=("block",),
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


def outside_flops(info) -> float:
    """Return the FLOPs outside the blocks: patch embedding, and the head's conditioning,
    modulation and projection."""
    patch, width, tokens = 4, info.width, info.num_tokens
    embedding, projection = 2 * tokens * patch * width, 2 * tokens * width * patch
    conditioning = 2 * (256 * width + width * width)
    return embedding + conditioning + 2 * width * 2 * width + projection


def test_forward_is_its_blocks_and_what_is_outside(evaluator):
    info = evaluator.model.info
    inside = info.num_layers * info.site_flops["block"]
    assert transformer_flops(evaluator.model) == inside + outside_flops(info)


def test_every_second_step_is_half_of_the_blocks(every_second, evaluator):
    info = evaluator.model.info
    inside, outside = LAYERS * info.site_flops["block"], outside_flops(info)
    assert every_second["reuse_ratio"] == 0.5
    assert every_second["flops_ratio"] == pytest.approx(
        (inside + outside) / (0.5 * inside + outside)
    )
    assert 1.98 < every_second["flops_ratio"] < 2.0
    assert every_second["sites"] == "block"
    assert 0 < every_second["latent_rel_l2"] < 1
    # Two guidance branches per sample, one int8 per channel and one float32 scale per row.
    held = LAYERS * 2 * SAMPLES * (info.num_tokens * info.width + 4)
    assert every_second["cache_mb"] == held / 2**20


def test_closed_blocks_are_the_twin(measure):
    row = measure(NeverReuse())
    assert (row["latent_rel_l2"], row["reuse_ratio"], row["flops_ratio"]) == (0.0, 0.0, 1.0)


def test_bound_is_that_of_the_blocks_share(every_second, evaluator):
    share = evaluator.site_share
    assert set(share) == {"block"}
    assert 0 < share["block"] < 1
    assert every_second["speedup_bound"] == pytest.approx(1 / (1 - 0.5 * share["block"]))
    assert speed_bound({"block": 0.9}, {"block": 0.5}) == pytest.approx(1 / 0.55)


def skipped(transformer, site):
    """Return the modules that a reuse of the first block's site skips."""
    return [first for first, _ in skipped_spans(transformer, site, "output")[0]]


def test_reused_block_skips_all_that_it_holds(digits):
    block = digits.transformer.transformer_blocks[0]
    assert skipped(digits.transformer, "block") == [block]
    parts = [*skipped(digits.transformer, "attn"), *skipped(digits.transformer, "ff")]
    assert {*parts, block.norm1, block.norm3} <= set(block.modules())


def test_shared_blocks_save_one_branch(evaluator):
    metrics = MetricAccumulator(gates=10)
    metrics.reused_by_site["block"], metrics.shared_by_site["block"] = 3, 4
    info = evaluator.model.info
    saved = saved_flops(evaluator.config, info, metrics, branches=2)
    assert saved == (3 * 2 + 4) * info.site_flops["block"]


def test_policy_is_probed_and_measured_on_blocks(evaluator, measure, policy):
    thresholds = torch.tensor([-1e6, policy.spec.log_threshold, 1e6])
    gate = Learned(policy, log_threshold=thresholds)
    probed = evaluator.calibrate(CalibrationTask(name="p", gate=gate, num_samples=3))
    assert probed.reuse_ratio[0] == 0
    # A row that never reuses differs from its reference only by rounding.
    assert probed.error[0] < 1e-5 < probed.error[2]
    assert (probed.reuse_ratio.diff() >= 0).all()
    # With this threshold the policy reuses wherever the staleness is within its max_gap.
    row = measure(Learned(policy, log_threshold=1e6))
    assert row["reuse_ratio"] == pytest.approx(probed.reuse_ratio[2].item())
    assert row["latent_rel_l2"] > 0


def test_plan_frozen_before_sampling_reuses_blocks(measure):
    plan = torch.zeros(STEPS, LAYERS, 1, dtype=torch.bool)
    plan[1:, 2:6] = True
    row = measure(MaskGate(plan))
    assert row["reuse_ratio"] == pytest.approx(plan.float().mean().item())


# FLOPs of one block.


def count_flops(block: nn.Module, tokens: int, width: int) -> int:
    """Return the FLOPs that torch counts for one row."""
    hidden, row = torch.zeros(1, tokens, width), torch.zeros(1, dtype=torch.long)
    # The counter does not count the fused CPU kernel; the MATH backend is two matrix products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        block(hidden, timestep=row, class_labels=row)
    return counter.get_total_flops()


def info_of(folder: Path, transformer: Any):
    """Return the description of a folder with this transformer's configuration."""
    transformer.save_pretrained(folder / "transformer")
    schedule = folder / "scheduler" / "scheduler_config.json"
    schedule.parent.mkdir()
    schedule.write_text(json.dumps({"num_train_timesteps": 1000}))
    return find_model(str(folder))


@pytest.mark.parametrize("activation", ["gelu-approximate", "geglu", "swiglu"])
@pytest.mark.parametrize(("heads", "head_width", "size"), [(2, 8, 8), (6, 64, 32), (4, 72, 16)])
def test_flops_of_a_block_are_torchs(tmp_path, heads, head_width, size, activation):
    transformer = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_width,
        num_layers=1,
        sample_size=size,
        num_embeds_ada_norm=10,
        activation_fn=activation,
    )
    info = info_of(tmp_path / "model", transformer)
    block = transformer.transformer_blocks[0]
    counted = count_flops(block, info.num_tokens, info.width)
    assert info.site_flops["block"] == pytest.approx(counted, rel=1e-2)
    parts = info.site_flops["attn"] + info.site_flops["ff"]
    assert 0 < counted - parts < 0.5 * counted


def test_flops_of_the_shipped_models_block_are_torchs(digits):
    info = digits.info
    counted = count_flops(digits.transformer.transformer_blocks[3], info.num_tokens, info.width)
    assert info.site_flops["block"] == pytest.approx(counted, rel=1e-2)


# At the door.

DOORS = {
    "collect": ["--out", "out"],
    "evaluate": ["--out", "out", "--methods", "baseline,interval"],
    "sample": ["--out", "out"],
}


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("sites", ["attn,block", "block,ff"])
def test_blocks_beside_another_site_are_refused(name, sites, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [f"{name}.py", "--model", "digits", "--sites", sites, *DOORS[name]]
    monkeypatch.setattr("sys.argv", flags)
    job = runpy.run_path(str(JOBS / f"{name}.py"))
    assert job["main"]() == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "block must be the only site" in shown.err
    assert "Pass ('block',)." in shown.err
    assert not list(tmp_path.iterdir())
