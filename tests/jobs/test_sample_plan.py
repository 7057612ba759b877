"""jobs/sample.py --plan follows a stored plan as a controller does, and refuses unfit plans."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.rules import Interval
from dqar.integration import DQARDDIMSampler, DQARDiTWrapper, SamplerConfig
from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import save_policy
from dqar.policy.spec import PolicySpec
from dqar.schedules.export import export_plan
from dqar.schedules.serialization import plan_document, save_plan
from dqar.schedules.static_plan import StaticPlan
from dqar.sharing.pretrained import save_pretrained
from dqar.signals import relative_error
from pipeline.models.loading import load_model
from pipeline.models.model_info import DIGITS, find_model
from pipeline.models.noise import draw_noise
from pipeline.models.sampling_choices import Sampler
from pipeline.models.schedulers import load_scheduler

STEPS, LAYERS = 6, 8

# DPM-Solver converts tensors by a NumPy protocol that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def a_plan(sampler: Sampler = "ddim") -> StaticPlan:
    scheduler = load_scheduler(find_model("digits"), sampler)
    scheduler.set_timesteps(STEPS)
    return export_plan(
        Interval(2),
        sites=("attn", "ff"),
        num_layers=LAYERS,
        forecast_order=1,
        feedback=0.5,
        scheduler=scheduler,
    )


@pytest.fixture
def job(run_job, tmp_path):
    """Run the job on the shipped model; return exit code, stdout and stderr."""
    save_plan(a_plan(), tmp_path / "plan.json")

    def run(*flags):
        model = () if "--model" in flags else ("--model", "digits")
        return run_job("sample", "--out", "out", *model, *flags)

    return run


def test_a_shared_plan_is_followed(job, tmp_path):
    save_pretrained(a_plan(), tmp_path / "shared")
    store = ("--tracking-uri", f"sqlite:///{tmp_path}/m.db")
    code, _, err = job("--plan", "shared", "--num-samples", "1", "--no-reference", *store)
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "sample.json").read_text())
    assert found["plan"] == json.loads(json.dumps(plan_document(a_plan())))


def test_a_plan_is_followed_as_by_its_controller(job, tmp_path):
    code, out, err = job("--plan", "plan.json", "--tracking-uri", f"sqlite:///{tmp_path}/m.db")
    assert code == 0, err
    found, plan = json.loads((tmp_path / "out" / "sample.json").read_text()), a_plan()
    assert f"sample: {found['note']}\n" in out
    assert found["reuse_ratio"] == 0.5
    assert found["reuse"]["by_reason"] == {"reuse": 4 * 16 * 3, "script": 4 * 16 * 3}
    assert (found["config"]["steps"], found["config"]["sampler"]) == (STEPS, "ddim")
    reuse = DQARConfig(sites=("attn", "ff"), forecast_order=1, feedback=0.5)
    assert found["config"]["dqar"] == json.loads(json.dumps(asdict(reuse)))
    assert found["plan"] == json.loads(json.dumps(plan_document(plan)))
    model = load_model(find_model("digits"), sampler="ddim", dtype="fp32", device="cpu")
    noise, labels = draw_noise("sample", 0, range(4), model.info.latent_shape, 10)
    config = SamplerConfig(
        num_inference_steps=STEPS, guidance_scale=find_model("digits").guidance_scale
    )
    controller = DQARController(reuse, gate=plan.gate())
    wrapper = DQARDiTWrapper(model.transformer, controller=controller)
    latents, references = (
        DQARDDIMSampler(one, model.scheduler, config).sample(4, labels, latents=noise)
        for one in (wrapper, model.transformer)
    )
    expected = relative_error(latents, references)
    assert (expected > 0).all()
    torch.testing.assert_close(torch.tensor(found["latent_rel_l2"]), expected, atol=1e-6, rtol=1e-3)


def test_a_plan_brings_its_sampler(job, tmp_path):
    save_plan(a_plan("dpm"), tmp_path / "dpm.json")
    store = ("--tracking-uri", f"sqlite:///{tmp_path}/m.db")
    code, _, err = job("--plan", "dpm.json", "--num-samples", "1", "--no-reference", *store)
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "sample.json").read_text())
    assert found["config"]["sampler"] == "dpm"
    assert found["reuse_ratio"] == 0.5


def test_a_plan_that_no_reuse_would_close_is_refused(job, tmp_path):
    code, _, err = job("--plan", "plan.json", "--num-samples", "1", "--no-reuse")
    assert code == 2
    assert "--no-reuse must come without --policy, --plan" in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--plan", "nowhere.json"], "nowhere.json must be a plan's JSON"),
        (["--plan", "broken.json"], "broken.json must have schema version 1"),
        (["--plan", "plan.json", "--steps", "8"], "8 layers and 6 steps for 8 layers and 8 steps"),
        (["--plan", "shallow.json"], "Got one of 3 layers"),
        (["--plan", "plan.json", "--sampler", "dpm"], "must be of the scheduler"),
        (["--plan", "plan.json", "--policy", "p"], "--plan must come without --policy, --config"),
        (["--plan", "plan.json", "--config", "c", "--sites", "ff"], "Got --config and --sites"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(job, tmp_path, flags, said):
    (tmp_path / "broken.json").write_text("{}")
    shallow = StaticPlan.of_mask(torch.zeros(STEPS, 3, dtype=torch.bool), sites=("attn",))
    save_plan(shallow, tmp_path / "shallow.json")
    code, out, err = job(*flags)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "flags", "said"),
    [
        ({"beta_schedule": "xxx"}, [], "must load with diffusers"),
        ({"timestep_spacing": "yyy"}, [], "with timestep_spacing 'yyy'"),
        # Both samplers then take the same timesteps.
        (
            {"timestep_spacing": "trailing"},
            ["--sampler", "dpm"],
            "--plan must be for the sampler of this run",
        ),
    ],
)
def test_a_scheduler_that_does_not_fit_is_refused(job, tmp_path, changed, flags, said):
    folder = shutil.copytree(DIGITS, tmp_path / "model")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    if flags:
        scheduler = load_scheduler(find_model(str(folder)), "ddim")
        scheduler.set_timesteps(STEPS)
        plan = export_plan(Interval(2), sites=("attn",), num_layers=LAYERS, scheduler=scheduler)
        save_plan(plan, tmp_path / "plan.json")
    code, out, err = job("--model", folder, "--plan", "plan.json", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err


def test_a_policy_as_a_plan_must_be_for_the_model_and_brings_its_guidance(job, tmp_path):
    spec = PolicySpec(
        features=("log_snr",),
        plans=((0, 2), (0, 1, 2, 3)),
        plan_errors=(0.2, 0.1),
        num_layers=8,
        steps=4,
        sampler="ddim",
        guidance=1.5,
        model_hash="another model",
    )
    save_policy(ReusePolicy(spec), tmp_path / "policy")
    code, _, err = job("--plan", tmp_path / "policy", "--num-samples", "1")
    assert code == 2
    assert "--policy must be trained for --model" in err
    spec = replace(spec, model_hash=find_model("digits").model_hash)
    save_policy(ReusePolicy(spec), tmp_path / "policy")
    store = ("--tracking-uri", f"sqlite:///{tmp_path}/m.db")
    code, out, err = job("--plan", tmp_path / "policy", "--num-samples", "1", *store)
    assert code == 0, err
    assert "guidance scale 1.5 (policy)" in out
