"""jobs/sample.py on a few steps of the shipped model: files, tracking, refusals."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dqar.config import DQARConfig
from dqar.integration import DQARDDIMSampler, DQARDPMSolverSampler, SamplerConfig
from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import save_policy
from dqar.policy.spec import PolicySpec
from pipeline.models.loading import load_model
from pipeline.models.model_info import DIGITS, find_model
from pipeline.models.noise import draw_noise
from pipeline.models.sampling_choices import Sampler
from pipeline.sample.sample import SampleConfig, sample
from pipeline.tracking import Tracker

STEPS, LAYERS = 6, 8
SAMPLERS = {"ddim": DQARDDIMSampler, "dpm": DQARDPMSolverSampler}
OPEN_GATES = """
reuse_gate: {entropy_threshold: 100.0, snr_low: 0.0, snr_high: .inf, warmup_fraction: 0.0}
layer_scheduling: {enabled: false}
"""
CLOSED_BY_ENTROPY = OPEN_GATES.replace("100.0", "0.0")

# DPM-Solver converts tensors by a NumPy protocol that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One tracking store for all runs of this file."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def job(run_job):
    """Run the job on digits; return exit code, stdout and stderr."""

    def run(*flags):
        default = {"--model": "digits", "--out": "out"}
        missing = [word for pair in default.items() if pair[0] not in flags for word in pair]
        return run_job("sample", *missing, *flags)

    return run


@pytest.fixture
def sampled(job, store, tmp_path):
    """Run the job, which must succeed; return the contents of sample.json, stdout and stderr."""

    def run(*flags):
        steps = () if "--steps" in flags else ("--steps", STEPS)
        code, out, err = job("--tracking-uri", store, *steps, *flags)
        assert code == 0, err
        return json.loads((tmp_path / "out" / "sample.json").read_text()), out, err

    return run


@pytest.fixture
def open_gates(tmp_path):
    """A configuration in which only an empty cache prevents reuse."""
    (tmp_path / "open.yaml").write_text(OPEN_GATES)
    return tmp_path / "open.yaml"


@pytest.fixture
def eager_policy(tmp_path):
    """An untrained policy for the shipped model that always says reuse."""
    spec = PolicySpec(
        num_layers=LAYERS,
        model_hash=find_model("digits").model_hash,
        steps=4,
        sampler="dpm",
        guidance=3.0,
        log_threshold=1e9,
    )
    save_policy(ReusePolicy(spec), tmp_path / "policy")
    return tmp_path / "policy"


def stock_latents(labels, *, seed=0, sampler: Sampler = "ddim"):
    """Return final latents of the unchanged model, sampled without the job."""
    model = load_model(find_model("digits"), sampler=sampler, dtype="fp32", device="cpu")
    info = model.info
    noise, _ = draw_noise("sample", seed, range(len(labels)), info.latent_shape, info.num_classes)
    config = SamplerConfig(num_inference_steps=STEPS, guidance_scale=info.guidance_scale)
    loop = SAMPLERS[sampler](model.transformer, model.scheduler, config)
    return loop.sample(len(labels), torch.tensor(labels), latents=noise)


def pixels_of(folder):
    return [np.asarray(Image.open(path)) for path in sorted((folder / "images").iterdir())]


def test_a_run_writes_images_grid_json_and_tracking(sampled, store, tmp_path, open_gates):
    found, out, err = sampled("--class-labels", "1,2,3", "--config", open_gates)
    assert found["command"].startswith("python jobs/sample.py --model digits")
    assert found["config"]["class_labels"] == [1, 2, 3]
    assert found["reuse"]["by_reason"] == {"reuse": 3 * 8 * 5, "cold": 3 * 8}
    assert found["reuse_ratio"] == pytest.approx(5 / 6)
    assert found["cache_mb"] * 2**20 == found["reuse"]["cache_bytes"] > 0
    assert len(found["latent_rel_l2"]) == 3
    assert all(0 < error < 1 for error in found["latent_rel_l2"])
    assert found["seconds_per_sample"] > 0
    assert found["twin_seconds_per_sample"] > 0
    assert {"cpu", "cores", "torch", "date"} <= found["machine"].keys()
    assert [pixels.shape for pixels in pixels_of(tmp_path / "out")] == [(8, 8)] * 3
    assert (tmp_path / "out" / "samples.png").stat().st_size > 0
    assert f"sample: {found['note']}\n" in out
    assert err == ""
    tracker = Tracker(store, "dqar")
    runs = tracker.client.search_runs([tracker.experiment_id])
    newest = next(run for run in runs if run.data.tags["stage"] == "sample")
    assert newest.info.status == "FINISHED"
    assert newest.data.params["dqar.entropy_threshold"] == "100.0"
    assert newest.data.metrics["sample/latent_rel_l2"] == pytest.approx(
        sum(found["latent_rel_l2"]) / 3
    )


def test_no_reuse_gives_the_stock_models_samples(sampled, tmp_path):
    found, _, err = sampled("--class-labels", "4,5", "--no-reuse", "--seed", "3")
    assert found["reuse"]["by_reason"] == {"closed": 2 * LAYERS * STEPS}
    assert found["latent_rel_l2"] is None
    assert found["twin_seconds_per_sample"] is None
    stock = (stock_latents([4, 5], seed=3).clamp(-1, 1) + 1) * 127.5
    for image, pixels in zip(stock, pixels_of(tmp_path / "out"), strict=True):
        assert np.array_equal(image[0].round().byte().numpy(), pixels)
    assert "WARNING" not in err


@pytest.mark.parametrize(("name", "other"), [("ddim", "dpm"), ("dpm", "ddim")])
def test_reference_samples_are_the_named_samplers(name, other):
    info = find_model("digits")
    config = SampleConfig(
        model="digits",
        dqar=DQARConfig(),
        cascade=True,
        class_labels=(4, 5),
        num_samples=2,
        steps=STEPS,
        guidance_scale=info.guidance_scale,
        sampler=name,
        twin=True,
        dtype="fp32",
        seed=0,
    )
    model = load_model(info, sampler=name, dtype="fp32", device="cpu")
    images = sample(config, model, None).reference_images
    assert images is not None
    assert torch.equal(images, model.decode(stock_latents([4, 5], sampler=name)))
    assert not torch.allclose(images, model.decode(stock_latents([4, 5], sampler=other)), atol=1e-2)


def test_a_run_that_never_reuses_warns_and_equals_its_reference(sampled, tmp_path):
    (tmp_path / "closed.yaml").write_text(CLOSED_BY_ENTROPY)
    found, out, err = sampled("--num-samples", "2", "--config", "closed.yaml")
    assert found["latent_rel_l2"] == [0.0, 0.0]
    assert "sample: No gate reused: 96 asked, all refused" in out
    assert err.count("\n") == 1
    assert "WARNING: DQAR is on, but nothing was reused" in err
    assert "'entropy'" in err


def test_a_policy_alone_decides_and_brings_its_settings(sampled, eager_policy):
    found, _, _ = sampled("--policy", eager_policy, "--num-samples", "1")
    assert found["config"]["cascade"] is False
    assert found["config"]["sampler"] == "dpm"
    assert found["config"]["guidance_scale"] == 3.0
    assert found["config"]["steps"] == STEPS
    assert found["reuse_ratio"] == pytest.approx((STEPS - 1) / STEPS)


def test_a_policy_with_a_configuration_is_the_last_gate_of_its_cascade(
    sampled, eager_policy, tmp_path
):
    (tmp_path / "closed.yaml").write_text(CLOSED_BY_ENTROPY)
    both = ("--policy", eager_policy, "--config", "closed.yaml")
    found, _, _ = sampled(*both, "--num-samples", "1", "--no-reference")
    assert found["reuse"]["by_reason"] == {"cold": LAYERS, "entropy": LAYERS * (STEPS - 1)}


def test_a_second_run_leaves_nothing_of_the_first(sampled, tmp_path):
    sampled("--num-samples", "3", "--no-reference")
    found, _, _ = sampled("--num-samples", "2", "--no-reference", "--sites", "attn,ff")
    assert len(pixels_of(tmp_path / "out")) == 2
    assert found["config"]["dqar"]["sites"] == ["attn", "ff"]
    _, labels = draw_noise("sample", 0, range(2), (1, 8, 8), 10)
    assert found["config"]["class_labels"] == labels.tolist()


def test_one_step_cannot_reuse_but_samples(sampled):
    found, _, err = sampled("--num-samples", "1", "--steps", "1")
    assert found["reuse"]["reused"] == 0
    assert "WARNING" in err


@pytest.fixture
def refused(job, tmp_path):
    """Run the job, which must refuse with one line and exit code 2 and write nothing."""

    def listing():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def run(*flags):
        before = listing()
        code, out, err = job(*flags)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("sample.py: ")
        assert listing() == before
        return err

    return run


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "./nowhere"], "--model must be digits"),
        (["--class-labels", "3,10"], "between 0 and 9 for digits. Got [10]"),
        (["--class-labels", "one"], "--class-labels must be whole numbers"),
        (["--class-labels", ","], "--class-labels must hold at least one value"),
        (
            ["--class-labels", "1", "--num-samples", "4"],
            "--class-labels must come without --num-samples",
        ),
        (["--num-samples", "0"], "--num-samples must be from 1"),
        (["--steps", "0"], "--steps must be from 1"),
        (["--steps", "1001"], "--steps must be at most 1000"),
        (["--guidance-scale", "nan"], "--guidance-scale must be a number"),
        (["--sampler", "euler"], "--sampler must be one of ddim, dpm, unipc, deis, saved"),
        (["--sites", "attention"], "sites must be one of"),
        (["--sites", ""], "--sites must hold at least one value"),
        (["--config", "nowhere.yaml"], "nowhere.yaml must be a YAML file"),
        (["--policy", "nowhere"], "policy.json"),
        (["--tracking-uri", "nonsense://x"], "--tracking-uri must be"),
        (["--num-steps", "5"], "There is no flag --num-steps"),
    ],
)
def test_bad_input_is_refused(refused, flags, said):
    assert said in refused(*flags)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reuse_gate: {", "must be a YAML file"),
        ("reuse_gate: {tau: 2}", "known keys. Got 'tau'"),
        (f"reuse_gate: {{entropy_threshold: {10**400}}}", "must be a number"),
        ("[" * 2000, "must be a YAML file"),
        ("reuse_gate: {snr_low: 1e-3}", "YAML reads 1.0e-3 as a number and 1e-3 as text"),
        ("reuse: {}\nreuse: {}", "must give each key once"),
    ],
)
def test_a_broken_configuration_is_refused(refused, tmp_path, text, said):
    (tmp_path / "broken.yaml").write_text(text)
    assert said in refused("--config", "broken.yaml")


def test_a_policy_of_another_model_is_refused(refused, eager_policy):
    path = eager_policy / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_hash": "f" * 16}))
    assert "must be trained for --model" in refused("--policy", eager_policy)


def test_sites_that_the_policy_does_not_know_are_refused(refused, eager_policy):
    assert "Pass --sites attn" in refused("--policy", eager_policy, "--sites", "attn,ff")


def test_another_cache_than_the_policys_is_refused(refused, eager_policy, tmp_path):
    (tmp_path / "kv.yaml").write_text("reuse: {cached: kv}")
    said = refused("--policy", eager_policy, "--config", "kv.yaml")
    assert "must fit the configuration" in said


def test_a_folder_with_other_files_or_in_a_file_is_refused(refused, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    assert "other files" in refused("--out", "taken")
    assert "thesis.txt in the way" in refused("--out", "taken/thesis.txt/below")


def test_a_model_whose_weights_are_cut_short_is_refused(refused, tmp_path):
    folder = shutil.copytree(DIGITS, tmp_path / "model")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "must hold transformer weights as safetensors" in refused("--model", folder)


@pytest.mark.parametrize("flag", ["--out", "--config", "--policy", "--plan"])
def test_relative_paths_are_refused_inside_a_ray_job(refused, monkeypatch, flag):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    out = () if flag == "--out" else ("--out", "/shared/out")
    said = refused(*out, flag, "somewhere")
    assert f"{flag} must be absolute inside a Ray job" in said
