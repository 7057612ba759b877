"""Input that jobs/sample.py refuses in one line, before anything is written."""

import json
import shutil

import pytest

from pipeline.models.model_info import DIGITS

# DPM-Solver converts tensors by a NumPy protocol that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture
def refused(sample_job, tmp_path):
    """Run the job, which must refuse with one line and exit code 2 and write nothing."""

    def listing():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def run(*flags):
        before = listing()
        code, out, err = sample_job(*flags)
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
        (["--sampler", "euler"], "--sampler must be one of ddim, dpm"),
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
