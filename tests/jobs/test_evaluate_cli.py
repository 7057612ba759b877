"""The doors of the jobs after training: bad input in one line with exit code 2."""

import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy, save_policy
from pipeline.evaluate.config import PaperSettings, read_paper_settings
from pipeline.models.model_info import DIGITS, find_model
from pipeline.train.config import TrainConfig, train_config
from pipeline.train.flags import TrainFlags

JOBS = Path(__file__).parents[2] / "jobs"
NAMES = sorted(path.stem for path in JOBS.glob("*.py"))


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--methods", "interval,magic"], "['magic']"),
        (["--methods", ""], "methods"),
        (["--methods", "learned"], "Got learned without a policy"),
        (["--policy", "x" * 101 + "=some"], "at most 100 letters"),
        (["--config", ""], "--config must be printable text that is not empty"),
        (["--num-samples", "0"], "--num-samples must be from 1"),
        (["--steps", "0"], "--steps must be from 2"),
        (["--batch-size", "0"], "--batch-size must be from 1"),
        (["--sites", "attention"], "--sites must"),
        (["--workers", "-1"], "--workers must be from 0"),
        (["--methods", "interval,interval"], "--methods must name each value once"),
        (["--policy", "./nowhere"], "policy.json"),
        (["--policy", "../out=./nowhere"], "--policy NAME must be"),
        (["--policy", "=./nowhere"], "--policy must be FOLDER or NAME=FOLDER"),
        (["--samples-per-task", "0"], "--samples-per-task must be from 1"),
        (["--guidance-scale", "nan"], "--guidance-scale must be a number"),
        (["--cached", "kv"], "There is no flag --cached"),
        (["--methods", "interval,static"], "Give methods: [static] in the file of --config"),
        (["--error-budget", "0"], "--error-budget must be above 0 and at most 1000"),
        (["--error-budget=-0.01"], "--error-budget must be above 0 and at most 1000"),
        (["--error-budget", "nan"], "--error-budget must be a number"),
        (["--error-budget", "0.01"], "Pass --policy"),
    ],
)
def test_evaluate_refuses(refused, flags, said):
    assert said in refused("evaluate", "--model", "digits", "--out", "results", *flags)


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("salience_balancing: true", ["--sites", "block"], "salience_balancing must come with"),
        ("{salience_balancing: true, cache_bits: 16}", [], "salience_balancing must come with"),
        ("fp16_keys: true", [], "fp16_keys must come with"),
        ("{fp16_keys: true, cached: kv, cache_bits: 32}", [], "cached keys of 2, 4 or 8 bits"),
        ("cross_branch_threshold: -1", [], "cross_branch_threshold must be in"),
        ("cross_branch_threshold: .nan", [], "cross_branch_threshold"),
        ("cross_branch_threshold: 1", ["--guidance-scale", "1"], "two guidance branches"),
        ("methods: [interval]", [], "methods of --config must be among static"),
        ("keep_keys: true", [], "fp16_keys"),
        ("cached: key", [], "cached"),
        ("cache_bits: 8.0", [], "cache_bits"),
        ("cached: kv\ncached: output", [], "cached"),
        ("[1, 2]", [], "experiment.yaml"),
    ],
)
def test_evaluate_refuses_settings_of_a_file(refused, tmp_path, text, flags, said):
    (tmp_path / "experiment.yaml").write_text(text)
    given = ("--model", "digits", "--out", "results", "--config", "experiment.yaml", *flags)
    assert said in refused("evaluate", *given)


@pytest.mark.parametrize("job", ["evaluate", "train"])
def test_a_missing_file_of_settings_is_refused(refused, some_traces, job):
    flags = {"evaluate": ("--model", "digits"), "train": ("--traces", some_traces)}[job]
    assert "nowhere.yaml" in refused(job, *flags, "--out", "out", "--config", "nowhere.yaml")


def test_the_shipped_files_show_every_setting_with_its_default():
    path = JOBS.parent / "configs" / "paper_evaluation.yaml"
    assert read_paper_settings(str(path)) == PaperSettings()
    for field in fields(PaperSettings):
        assert re.search(rf"^{field.name}: .*# \S", path.read_text(), re.MULTILINE)
    assert read_paper_settings(str(path.with_name("greedy_policies.yaml"))).greedy_policies


def test_one_step_errors_are_a_setting_of_a_file():
    path = str(JOBS.parent / "configs" / "one_step_error.yaml")
    flags = TrainFlags(traces=["t"], out="o", drop_features=("progress",), error_feedback=(0.5,))
    assert train_config(flags) == TrainConfig(without=("progress",), feedbacks=(0.5,))
    assert train_config(replace(flags, config=path)).label == "local"


def test_evaluate_refuses_a_policy_without_plans(refused, some_policy):
    said = refused("evaluate", "--model", "digits", "--policy", some_policy, "--out", "results")
    assert "must have plans" in said
    assert "greedy_policies: true" in said


def test_evaluate_refuses_a_solver_that_the_model_has_none_of(refused, tmp_path):
    folder = shutil.copytree(DIGITS, tmp_path / "model")
    (folder / "scheduler" / "scheduler_config.json").write_text(
        '{"_class_name": "FlowMatchEulerDiscreteScheduler"}'
    )
    said = refused(
        *("evaluate", "--model", folder, "--out", "results"),
        *("--methods", "interval,fewer-steps-dpmsolver"),
    )
    assert "Leave fewer-steps-dpmsolver out" in said


def test_evaluate_refuses_a_policy_of_another_model(refused, some_policy):
    identity = find_model("digits").model_hash
    edit_json(some_policy / "policy.json", model_hash=identity.replace("scheduler=", "scheduler=f"))
    said = refused("evaluate", "--model", "digits", "--policy", some_policy, "--out", "results")
    assert "trained for a model with another scheduler than digits" in said


def test_evaluate_refuses_sites_that_a_policy_does_not_know(refused, some_policy):
    said = refused(
        *("evaluate", "--model", "digits", "--policy", some_policy),
        *("--out", "results", "--sites", "attn,ff"),
    )
    assert "Pass --sites attn" in said


def test_evaluate_refuses_a_policy_of_another_cache(refused, some_policy, tmp_path):
    (tmp_path / "kv.yaml").write_text("cached: kv\n")
    said = refused(
        *("evaluate", "--model", "digits", "--policy", some_policy),
        *("--out", "results", "--config", "kv.yaml"),
    )
    assert "must fit the configuration" in said


@pytest.mark.parametrize("job", ["evaluate", "sample"])
@pytest.mark.parametrize("other", [("--steps", "5"), ("--sampler", "dpm")])
def test_plans_of_another_run_are_refused(refused, some_policy, job, other):
    spec = replace(load_policy(some_policy).spec, plans=((0, 2),), plan_errors=(0.1,))
    save_policy(ReusePolicy(spec), some_policy)
    said = refused(job, "--model", "digits", "--policy", some_policy, "--out", "out", *other)
    assert "Got plans for 4 steps of ddim" in said


def test_evaluate_refuses_two_policies_of_one_name(refused, some_policy):
    said = refused(
        *("evaluate", "--model", "digits", "--out", "results"),
        *("--policy", some_policy, "--policy", some_policy),
    )
    assert "NAME=FOLDER" in said


@pytest.mark.parametrize("damage", ["truncated weights", "no weights", "no json"])
def test_evaluate_refuses_a_damaged_policy(refused, some_policy, damage):
    weights = some_policy / "policy.safetensors"
    if damage == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:50])
    elif damage == "no weights":
        weights.unlink()
    else:
        (some_policy / "policy.json").write_text("{")
    said = refused("evaluate", "--model", "digits", "--policy", some_policy, "--out", "results")
    assert "policy." in said


def test_evaluate_refuses_a_folder_with_other_files(refused, taken):
    assert "other files" in refused("evaluate", "--model", "digits", "--out", taken)


def test_a_folder_inside_a_file_is_refused(refused, taken, some_traces):
    below = ("--out", taken / "thesis.txt" / "below")
    for name, *flags in (("evaluate", "--model", "digits"), ("train", "--traces", some_traces)):
        assert "thesis.txt in the way" in refused(name, *flags, *below)


@pytest.mark.parametrize("name", ["collect", "evaluate"])
def test_a_model_folder_without_its_transformer_is_refused(refused, tmp_path, name):
    folder = shutil.copytree(DIGITS, tmp_path / "model")
    shutil.rmtree(folder / "transformer")
    assert "must hold transformer/" in refused(name, "--model", folder, "--out", "out")


def test_pretrain_refuses_no_steps_and_a_full_folder(refused, taken):
    assert "steps must be from 1 to 1000000" in refused("pretrain", "--out", "out", "--steps", "0")
    assert "empty or new" in refused("pretrain", "--out", taken)


@pytest.mark.parametrize(
    "flags", [["--num-trajectories", "0"], ["--num-samples", "0"], ["--steps", "0"]]
)
def test_demo_refuses_before_it_starts_servers(monkeypatch, refused, flags):
    def no_servers(*_, **__):
        raise AssertionError("bad input must be refused before servers start")

    monkeypatch.setattr("pipeline.demo.local_servers.Servers.start", no_servers)
    refused("demo", "--out", "demo", *flags)


def test_the_ui_refuses_a_folder_without_a_demonstration(refused, tmp_path):
    assert "Run make demo first" in refused("demo", "--ui", "--out", tmp_path / "nowhere")
