"""Forecast orders in the pipeline: operating points of one order, calibration and collected
trajectories of mixed orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dqar.control.controller import DQARController
from dqar.gates.rules import Interval, MaskGate
from dqar.integration import DQARDDIMSampler, DQARDiTWrapper, SamplerConfig
from dqar.records import ACTIONS, GateRecord
from pipeline.collect.worker import Collector
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.flops import transformer_flops
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.methods.base import COARSE
from pipeline.methods.calibration import CalibrationTask
from pipeline.methods.interval import interval_points
from pipeline.models.model_info import find_model
from pipeline.models.noise import draw_noise
from pipeline.traces.commit import claim_output
from pipeline.traces.tables import GATES, TRAJECTORIES, to_table

STEPS, SAMPLES = 12, 4


@pytest.fixture(scope="module", params=["output", "kv"])
def evaluator(request):
    return EvaluationWorker(
        EvaluateConfig(
            model="digits",
            steps=STEPS,
            guidance_scale=2.0,
            sites=("attn", "ff"),
            cached=request.param,
            num_samples=SAMPLES,
            batch_size=SAMPLES,
        )
    )


@pytest.fixture(scope="module")
def rows(evaluator):
    """Result rows with every second step computed, one for each forecast order from 0 to 2."""
    points = [interval_points(COARSE, STEPS, order)[0] for order in range(3)]
    return [evaluator.measure(point).row for point in points]


def test_one_evaluation_holds_points_of_every_order(rows):
    assert [row["forecast_order"] for row in rows] == [0, 1, 2]
    assert len({row["latent_rel_l2"] for row in rows}) == 3
    for key in ("reuse_ratio", "sites"):
        assert len({row[key] for row in rows}) == 1
    assert rows[1]["cache_mb"] == pytest.approx(2 * rows[0]["cache_mb"])
    assert rows[2]["cache_mb"] == pytest.approx(3 * rows[0]["cache_mb"])


def test_flops_of_forecasts_by_hand(rows, evaluator):
    info, cached = evaluator.model.info, evaluator.config.cached
    inside = {"attn": info.kv_flops if cached == "kv" else info.site_flops["attn"]}
    inside["ff"] = info.site_flops["ff"]
    forward = transformer_flops(evaluator.model) * STEPS
    saved = STEPS / 2 * info.num_layers * sum(inside.values())
    # Elements of a sample's cached values at both sites; with kv the attention caches two tensors.
    elements = info.num_layers * info.num_tokens * info.width * (3 if cached == "kv" else 2)
    # Of 6 reuses, the first has no first difference yet and the second no second difference.
    shown = [0, 5, 5 + 4]
    for order, row in enumerate(rows):
        own = 2.0 * elements * (shown[order] + order * STEPS / 2)
        assert row["flops_ratio"] == pytest.approx(forward / (forward - saved + own))


def test_the_order_of_a_calibration_differs_by_sample(evaluator):
    gate, noise_ids = Interval(3), (5, 5, 5)
    mixed = evaluator.calibrate(
        CalibrationTask(
            name="m", gate=gate, num_samples=3, noise_ids=noise_ids, forecast_order=(2, 0, 1)
        )
    )
    for sample, order in enumerate((2, 0, 1)):
        alone = evaluator.calibrate(
            CalibrationTask(
                name="a", gate=gate, num_samples=1, noise_ids=(5,), forecast_order=order
            )
        )
        torch.testing.assert_close(mixed.error[sample], alone.error[0], atol=1e-6, rtol=2e-2)
    assert all(
        not torch.isclose(one, other) for one, other in itertools.combinations(mixed.error, 2)
    )


# Collection.


@pytest.fixture(scope="module")
def plan():
    info = find_model("digits")
    return CollectPlan(
        model="digits",
        model_hash=info.model_hash,
        num_trajectories=6,
        batch_size=6,
        steps=6,
        guidance_scale=info.guidance_scale,
        sites=("attn", "ff"),
        designs=("independent",),
        forecast_orders=(0, 1, 2),
        cache_bits=32,
    )


@pytest.fixture(scope="module")
def collected(plan, tmp_path_factory):
    root = tmp_path_factory.mktemp("collector")
    claim_output(root, plan)
    (unit,) = plan.units()
    trajectories, gates = Collector(plan, str(root)).sample(unit)
    return to_table(trajectories, TRAJECTORIES), to_table(gates, GATES)


@pytest.fixture(scope="module")
def gates(collected):
    """Columns of the gates table, each of shape ``[trajectory, step, gate]``."""
    _, table = collected
    return {
        name: table[name].to_numpy(zero_copy_only=False).reshape(6, 6, 16) for name in GATES.names
    }


def test_trajectories_say_their_order(collected, plan):
    orders = collected[0]["forecast_order"].to_pylist()
    assert orders == [plan.forecast_order(index) for index in range(6)] == [0, 1, 2, 0, 1, 2]


def test_actions_say_what_a_reuse_showed(gates, collected):
    wanted = np.array(collected[0]["forecast_order"].to_pylist())[:, None, None]
    assert (gates["order"] <= wanted).all()
    shown = np.array(ACTIONS)[gates["order"].astype(int)]
    expected = np.where(gates["reason"] == "reuse", shown, "compute")
    assert (gates["action"] == expected).all()
    for trajectory, order in enumerate(wanted.flatten()):
        assert set(gates["action"][trajectory].flatten()) <= {"compute", *ACTIONS[: order + 1]}
    assert {"forecast1", "forecast2"} <= set(gates["action"].flatten())


def test_the_log_of_mixed_orders_replays(gates, collected, plan, digits):
    info = digits.info
    noise, labels = draw_noise("collect", plan.seed, [0, 1], info.latent_shape, info.num_classes)
    of_noise = torch.tensor([0, 0, 0, 1, 1, 1])
    wrapper = DQARDiTWrapper(digits.transformer, plan.dqar_config())
    sampling = SamplerConfig(num_inference_steps=6, guidance_scale=plan.guidance_scale)
    sampler = DQARDDIMSampler(wrapper, digits.scheduler, sampling)
    never = DQARController(plan.dqar_config(enabled=False))
    references = sampler.sample(2, labels, latents=noise, controller=never)[of_noise]
    taken = torch.from_numpy(gates["action"] != "compute").permute(1, 2, 0)
    records: list[GateRecord] = []
    replay = DQARController(
        plan.dqar_config(),
        gate=MaskGate(taken),
        sink=records.append,
        forecast_order=torch.tensor(collected[0]["forecast_order"].to_pylist()),
    )
    latents = sampler.sample(6, labels[of_noise], latents=noise[of_noise], controller=replay)
    distance = (latents - references).flatten(1).norm(dim=1) / references.flatten(1).norm(dim=1)
    logged = collected[0]["latent_rel_l2"].to_numpy()
    np.testing.assert_allclose(distance, logged, rtol=0, atol=1e-5)
    orders = torch.stack([record.inputs.order for record in records]).permute(2, 0, 1)
    assert (orders.numpy() == gates["order"]).all()
