"""Collector without Ray: executing the logged actions gives the results logged in exposure mode."""

from functools import partial

import numpy as np
import pytest
import torch

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gate_table import GateTable
from dqar.gates.rules import MaskGate
from dqar.integration import DQARDDIMSampler, DQARDiTWrapper, SamplerConfig
from dqar.records import FEATURES
from pipeline.collect.worker import Collector
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.exploration.designs import DESIGNS, explore
from pipeline.models.model_info import find_model
from pipeline.models.noise import draw_noise
from pipeline.storage.object_store import open_storage
from pipeline.traces.commit import claim_output, committed_receipts
from pipeline.traces.tables import GATES, TRAJECTORIES, to_table

STEPS, TRAJECTORIES_ASKED = 4, 6


@pytest.fixture(scope="module", params=[("attn",), ("attn", "ff"), ("stack",)], ids=",".join)
def plan(request):
    info = find_model("digits")
    return CollectPlan(
        model="digits",
        model_hash=info.model_hash,
        num_trajectories=TRAJECTORIES_ASKED,
        batch_size=6,
        steps=STEPS,
        guidance_scale=info.guidance_scale,
        sites=request.param,
        designs=DESIGNS,
        forecast_orders=(0,),
        bases=((0, 2),),
        policy_digest="a" * 24,
    )


@pytest.fixture(scope="module")
def schedules(plan, num_gates):
    """Random reuse decisions drawn for each trajectory."""
    draw = partial(explore, plan.designs, plan.noise_seed)
    return [draw(index, STEPS, num_gates, plan.schedules) for index in range(TRAJECTORIES_ASKED)]


@pytest.fixture(scope="module")
def collector(plan, tmp_path_factory):
    root = tmp_path_factory.mktemp("collector")
    claim_output(root, plan)
    return Collector(plan, str(root))


@pytest.fixture(scope="module")
def sampled(collector, plan):
    """Columns of both tables of the plan's only unit."""
    (unit,) = plan.units()
    return collector.sample(unit)


@pytest.fixture(scope="module")
def num_gates(plan):
    return GateTable.regular(plan.sites, 8).num_gates


@pytest.fixture(scope="module")
def gates(sampled, num_gates):
    """Columns of the gates table, each of shape ``[trajectory, step, gate]``."""
    table = to_table(sampled[1], GATES)
    shape = (TRAJECTORIES_ASKED, STEPS, num_gates)
    return {name: table[name].to_numpy(zero_copy_only=False).reshape(shape) for name in GATES.names}


def test_columns_fit_their_schemas(sampled, num_gates):
    trajectories, rows = to_table(sampled[0], TRAJECTORIES), to_table(sampled[1], GATES)
    trajectories.validate(full=True)
    rows.validate(full=True)
    assert trajectories.num_rows == TRAJECTORIES_ASKED
    assert rows.num_rows == TRAJECTORIES_ASKED * STEPS * num_gates
    assert all(rows[name].null_count == 0 for name in FEATURES)
    assert all(np.isfinite(rows[name].to_numpy()).all() for name in FEATURES)


def test_a_unit_done_twice_is_the_same(collector, plan):
    (unit,) = plan.units()
    first, again = collector.do(unit), collector.do(unit)
    assert first["decision_digest"] == again["decision_digest"]
    # The second attempt returns the receipt of the first; equal bytes give equal file names.
    for table, file in again["files"].items():
        assert file == first["files"][table]
        assert list(open_storage(collector.root).sizes(table)) == [file["name"]]
    assert set(committed_receipts(collector.root, plan)) == {unit.unit_id}


def test_the_first_step_computes_even_where_reuse_was_drawn(gates, schedules):
    wanted = np.stack([schedule.wants_reuse[0] for schedule in schedules])
    assert wanted.any()
    assert (gates["reason"][:, 0][wanted] == "cold").all()
    assert (gates["action"][:, 0] == "compute").all()
    assert not gates["eligible"][:, 0].any()
    assert (gates["propensity"][:, 0] == 1).all()
    assert np.isnan(gates["local_rel_error"][:, 0]).all()


def test_eligible_gates_do_what_was_drawn(gates, schedules):
    for index, schedule in enumerate(schedules):
        wants, likely = schedule.wants_reuse.numpy(), schedule.probability.numpy()
        live = gates["eligible"][index]
        assert (gates["action"][index] == np.where(wants & live, "reuse", "compute")).all()
        expected = np.where(live, np.where(wants, likely, 1 - likely), 1.0)
        np.testing.assert_allclose(gates["propensity"][index], expected, rtol=1e-6)
    assert ((gates["reason"] == "reuse") == (gates["action"] == "reuse")).all()
    assert gates["eligible"][:, 1].all()
    assert (gates["local_rel_error"][:, 1:] >= 0).all()


def test_a_reused_gate_does_not_refresh_its_entry(gates):
    reused = gates["action"] == "reuse"
    for step in range(1, STEPS):
        gap = np.exp(gates["log_gap"][:, step])
        before = np.exp(gates["log_gap"][:, step - 1])
        expected = np.where(reused[:, step - 1], before + 1, 1)
        np.testing.assert_allclose(gap, expected, rtol=1e-5)


def test_sites_and_layers_are_laid_out_site_major(gates, plan):
    layers = 1 if plan.sites == ("stack",) else 8
    assert (gates["site"] == np.repeat(plan.sites, layers)).all()
    assert (gates["layer"] == np.tile(np.arange(layers), len(plan.sites))).all()


def test_trajectories_of_a_noise_share_it(sampled):
    noise, labels = sampled[0]["noise_id"], np.asarray(sampled[0]["label"])
    assert noise == [0, 0, 0, 1, 1, 1]
    assert len(set(labels[:3])) == len(set(labels[3:])) == 1


def test_noise_is_the_rounds_own(sampled, collector, plan):
    """A plan that explores around a policy draws other noise than its seed alone would give."""
    info = find_model("digits")
    draw = partial(draw_noise, "collect", shape=info.latent_shape, num_classes=info.num_classes)
    latents, labels = draw(plan.noise_seed, [0, 1])
    assert np.asarray(sampled[0]["label"])[::3].tolist() == labels.tolist()
    assert torch.equal(collector._draw([0, 1])[0], latents)
    assert not torch.equal(draw(plan.seed, [0, 1])[0], latents)


def test_reuse_moves_the_result(sampled, gates):
    error = np.asarray(sampled[0]["latent_rel_l2"])
    reused = (gates["action"] == "reuse").any(axis=(1, 2))
    assert reused.sum() >= 4
    assert ((error > 0) == reused).all()
    assert (error < 1).all()


def test_replaying_the_log_in_execution_gives_the_logged_result(gates, sampled, plan, digits):
    info = digits.info
    seed = plan.noise_seed
    noise, labels = draw_noise("collect", seed, [0, 1], info.latent_shape, info.num_classes)
    of_noise = torch.tensor([0, 0, 0, 1, 1, 1])
    config = DQARConfig(quantization_bits=plan.cache_bits, sites=plan.sites)
    wrapper = DQARDiTWrapper(digits.transformer, config)
    sampler = DQARDDIMSampler(
        wrapper,
        digits.scheduler,
        SamplerConfig(num_inference_steps=STEPS, guidance_scale=plan.guidance_scale),
    )
    never = DQARController(DQARConfig(enabled=False, sites=plan.sites))
    references = sampler.sample(2, labels, latents=noise, controller=never)[of_noise]
    taken = torch.from_numpy(gates["action"] == "reuse").permute(1, 2, 0)
    records = []
    replay = DQARController(config, gate=MaskGate(taken), sink=records.append)
    latents = sampler.sample(6, labels[of_noise], latents=noise[of_noise], controller=replay)
    distance = (latents - references).flatten(1).norm(dim=1) / references.flatten(1).norm(dim=1)
    np.testing.assert_allclose(distance, sampled[0]["latent_rel_l2"], rtol=0, atol=1e-5)
    replayed = torch.stack([record.inputs.columns(FEATURES) for record in records])
    for index, name in enumerate(FEATURES):
        found = replayed[..., index].permute(2, 0, 1).numpy()
        np.testing.assert_allclose(found, gates[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_gate_rows_of_a_dataset_are_conserved(traces, traces_plan):
    from pipeline.traces import read_gates, read_trajectories

    ids = read_trajectories(str(traces))["trajectory_id"].to_pylist()
    owners = read_gates(str(traces), ["trajectory_id"])["trajectory_id"].to_pylist()
    assert len(owners) == len(ids) * traces_plan.steps * 8
    assert set(owners) == set(ids)
