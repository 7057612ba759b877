"""jobs/sample.py on a few steps of the shipped model: files and tracking."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dqar.config import DQARConfig
from dqar.integration import DQARDDIMSampler, DQARDPMSolverSampler, SamplerConfig
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
def sampled(sample_job, store, tmp_path):
    """Run the job, which must succeed; return the contents of sample.json, stdout and stderr."""

    def run(*flags):
        steps = () if "--steps" in flags else ("--steps", STEPS)
        code, out, err = sample_job("--tracking-uri", store, *steps, *flags)
        assert code == 0, err
        return json.loads((tmp_path / "out" / "sample.json").read_text()), out, err

    return run


@pytest.fixture
def open_gates(tmp_path):
    """A configuration in which only an empty cache prevents reuse."""
    (tmp_path / "open.yaml").write_text(OPEN_GATES)
    return tmp_path / "open.yaml"


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


def test_a_model_path_that_looks_like_a_uri_is_written_without_its_token(sampled, tmp_path):
    folder = shutil.copytree(DIGITS, tmp_path / "digits?token=canary-4711")
    found, _, _ = sampled("--model", folder, "--num-samples", "1", "--no-reference")
    assert found["config"]["model"].endswith("digits?token=...")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [path for path in files if b"canary" in path.read_bytes()] == []
