"""A solver with settings from collection to plan: every stage names it, and no two ever mix."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dqar.gates.rules import MaskGate
from dqar.policy.serialization import load_policy
from dqar.schedules.policy_plan import plan_of_policy
from dqar.schedules.serialization import load_plan, save_plan
from dqar.schedules.static_plan import StaticPlan
from dqar.snr import scheduler_snr
from pipeline.errors import InputError
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.policies import refuse_misfits
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.exploration.near_policy import find_reference_policy
from pipeline.methods.base import OperatingPoint
from pipeline.models.model_info import find_model
from pipeline.models.schedulers import scheduler_of_run
from pipeline.traces import read_gates, read_trajectories
from pipeline.traces.commit import claim_output
from pipeline.traces.multi_dataset import open_traces
from pipeline.train.config import TrainConfig
from pipeline.train.train import save_trained, train
from tests.pipeline.conftest import collected

SAMPLER = "dpm:solver_order=2,timestep_spacing=linspace,use_karras_sigmas=true"
OTHER = "dpm:solver_order=3,timestep_spacing=linspace,use_karras_sigmas=true"
SAID = "sampler dpm with solver_order 2 instead of 3"

# NumPy warns of how diffusers' schedulers hand it tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture(scope="module")
def solver_plan(traces_plan):
    return replace(traces_plan, sampler=SAMPLER, num_trajectories=24)


@pytest.fixture(scope="module")
def solver_traces(solver_plan, tmp_path_factory):
    return collected(solver_plan, tmp_path_factory.mktemp("solver") / "traces")


@pytest.fixture(scope="module")
def policy_folder(solver_traces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("solver-policy")
    trained = train(TrainConfig(features="schedule", members=1), open_traces(solver_traces))
    save_trained(trained, folder, {})
    return folder


def test_traces_name_the_setting_and_have_its_noise_levels(solver_traces):
    assert set(read_trajectories(solver_traces)["sampler"].to_pylist()) == {SAMPLER}
    gates = read_gates(solver_traces).to_pandas()
    scheduler = scheduler_of_run(find_model("digits"), SAMPLER, 6)
    timesteps = scheduler.timesteps.double().tolist()
    expected = [math.log(scheduler_snr(scheduler, one, step=i)) for i, one in enumerate(timesteps)]
    assert gates.groupby("step")["timestep"].first().tolist() == timesteps
    assert gates.groupby("step")["log_snr"].first().tolist() == pytest.approx(expected, abs=1e-3)


def test_the_policy_and_its_plan_name_the_setting(policy_folder):
    policy = load_policy(policy_folder)
    assert policy.spec.sampler == SAMPLER
    named = SAMPLER.replace("dpm", "DPMSolverMultistepScheduler")
    assert plan_of_policy(policy).sampler == named


def test_a_plan_of_the_evaluation_is_of_the_setting(policy_folder, tmp_path):
    policy = load_policy(policy_folder)
    worker = EvaluationWorker(config_of(SAMPLER))
    schedule = policy.spec.schedules[0]
    point = OperatingPoint(
        method="learned",
        operating_point="plan",
        steps=6,
        gate=MaskGate(schedule.mask(6)[:, None, None]),
        schedule=schedule,
        forecast_order=schedule.forecast_order,
    )
    measured = worker.measure(point)
    assert measured.row["sampler"] == SAMPLER
    assert isinstance(measured.plan, StaticPlan)
    save_plan(measured.plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json").sampler.startswith("DPMSolverMultistepScheduler:")


def config_of(sampler):
    return EvaluateConfig(
        model="digits", steps=6, guidance_scale=2.0, num_samples=2, batch_size=2, sampler=sampler
    )


@pytest.mark.parametrize("sampler", [OTHER, "dpm", "ddim"])
def test_an_evaluation_by_another_setting_is_refused(policy_folder, sampler):
    policy = load_policy(policy_folder)
    said = {OTHER: SAID}.get(sampler, "plans for 6 steps of dpm:solver_order=2")
    with pytest.raises(InputError, match=said):
        refuse_misfits(config_of(sampler), {"learned": policy}, allow_greedy=False)
    refuse_misfits(config_of(SAMPLER), {"learned": policy}, allow_greedy=False)


def test_a_collection_resumed_by_another_setting_is_refused(solver_traces, solver_plan):
    with pytest.raises(InputError, match=f"collected with {SAID}"):
        claim_output(solver_traces, replace(solver_plan, sampler=OTHER))


def test_traces_of_two_settings_are_not_fitted_together(solver_traces, traces):
    with pytest.raises(InputError, match=r"with sampler 'dpm:.*' instead of 'ddim'"):
        open_traces((traces, solver_traces))


def test_a_further_round_by_another_setting_is_refused(policy_folder, solver_plan):
    reference = find_reference_policy(str(policy_folder), "near-policy")
    assert reference is not None
    assert reference.fields["sampler"] == SAMPLER
    fields = {**solver_plan.fields, "sampler": OTHER}
    with pytest.raises(InputError, match=f"trained for {SAID}"):
        reference.refuse_misfit(fields, 8)


def test_a_plan_of_a_collection_with_an_unknown_setting_is_refused(solver_plan):
    with pytest.raises(ValueError, match="sampler must have settings of dpm"):
        replace(solver_plan, sampler="dpm:eta=1")
