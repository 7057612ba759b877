"""The jobs' doors: help that documents every flag, and bad input in one line with exit code 2."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dqar.policy import ReusePolicy
from dqar.policy_file import load_policy, save_policy
from dqar.policy_spec import PolicySpec
from pipeline.commit import claim_folder, write_manifest
from pipeline.dataset import commit_unit, to_table
from pipeline.models import DIGITS, find_model
from pipeline.plan import CollectPlan

JOBS = Path(__file__).parents[2] / "jobs"
NAMES = sorted(path.stem for path in JOBS.glob("*.py"))


@pytest.fixture
def refused(run_job, monkeypatch, tmp_path):
    """Runs a job that must refuse: one line, exit code 2, no Ray, nothing written anywhere."""

    def no_ray(*_, **__):
        raise AssertionError("bad input must be refused before Ray starts")

    monkeypatch.setattr("ray.init", no_ray)

    def listing():
        return {
            path.relative_to(tmp_path): path.stat().st_mtime_ns
            for path in tmp_path.rglob("*")
            if path.is_file()
        }

    def run(name, *flags):
        before = listing()
        code, out, err = run_job(name, *flags)
        assert code == 2
        assert out == ""
        assert err.startswith(f"{name}.py: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert listing() == before
        return err

    return run


@pytest.fixture
def some_traces(tmp_path):
    """A finished dataset of one trajectory, its values made up."""
    import pyarrow as pa

    from pipeline.dataset import GATES, TRAJECTORIES

    root = tmp_path / "traces"
    plan = CollectPlan(
        model="digits", model_hash=find_model("digits").model_hash, num_trajectories=1, steps=2
    )

    def row(schema):
        return {
            field.name: ["x" if pa.types.is_string(field.type) else _one(field.type)]
            for field in schema
        }

    def _one(kind):
        return True if pa.types.is_boolean(kind) else pa.scalar(1, kind).as_py()

    claim_folder(root, plan)
    (unit,) = plan.units()
    assert to_table(row(GATES), GATES).num_rows == 1
    receipt = commit_unit(root, unit, row(TRAJECTORIES), row(GATES), {})
    facts = {"num_layers": 8, "site_flops": find_model("digits").site_flops}
    write_manifest(root, plan, {unit.unit_id: receipt}, facts)
    return root


@pytest.fixture
def some_policy(tmp_path):
    """An untrained policy that fits the shipped model."""
    card = find_model("digits")
    spec = PolicySpec(num_layers=8, model_hash=card.model_hash, steps=4, sampler="ddim")
    save_policy(ReusePolicy(spec), tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def taken(tmp_path):
    """A folder that holds something else."""
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    return folder


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", NAMES)
def test_help_documents_every_flag(run_job, load_job, name):
    code, out, _ = run_job(name, "--help")
    assert code == 0
    for action in load_job(name).parser()._actions:
        assert action.help
        assert ([*action.option_strings] or [action.metavar or action.dest])[-1] in out
    assert not list(Path.cwd().iterdir())


def test_help_of_a_script_as_a_user_starts_it():
    shown = subprocess.run(
        [sys.executable, JOBS / "collect.py", "--help"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0
    assert "--num-trajectories" in shown.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "./nowhere"], "--model must be digits"),
        (["--steps", "0"], "steps must be at least 2"),
        (["--steps", "many"], "invalid int value"),
        (["--compact-mb", "-1"], "invalid megabytes value"),
        (["--compact-mb", "inf"], "invalid megabytes value"),
        (["--num-trajectories", "0"], "num_trajectories must be at least 1"),
        (["--num-trajectories", "-3"], "num_trajectories must be at least 1"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--batch-size", "many"], "invalid size_or_auto value"),
        (["--wait-minutes", "0"], "wait_minutes must be above 0"),
        (["--wait-minutes", "nan"], "wait_minutes must be above 0"),
        (["--unit-minutes", "0"], "unit_minutes must be above 0"),
        (["--sites", "attention"], "sites"),
        (["--sites", ""], "sites"),
        (["--designs", "coin"], "Choose from paced"),
        (["--designs", "near-policy"], "must come with --policy"),
        (["--policy", "./nowhere"], "must come with near-policy among --designs"),
        (["--policy", "./nowhere", "--designs", "near-policy"], "policy.json must be"),
        (["--forecast-orders", "first"], "--forecast-orders must be whole numbers"),
        (["--forecast-orders", "0,3"], "forecast_orders must be chosen from (0, 1, 2)"),
        (["--forecast-orders", ""], "forecast_orders must be chosen from (0, 1, 2)"),
        (["--sampler", "euler"], "invalid choice"),
        (["--guidance-scale", "inf"], "guidance_scale must be finite"),
        (["--workers", "-1"], "workers"),
        (["--gpus-per-worker", "-0.5"], "gpus_per_worker"),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_collect_refuses(refused, flags, said):
    assert said in refused("collect", "--model", "digits", "--out", "traces", *flags)


def test_collect_refuses_storage_that_it_does_not_know(refused):
    said = refused("collect", "--model", "digits", "--out", "az://bucket/x")
    assert "s3://BUCKET/PREFIX" in said


@pytest.mark.parametrize("size", ["48", "auto"])
def test_collect_refuses_a_folder_with_other_files(refused, taken, size):
    flags = ("--model", "digits", "--out", taken, "--batch-size", size)
    assert "other files" in refused("collect", *flags)


def test_collect_refuses_another_plans_folder(refused, some_traces):
    said = refused("collect", "--model", "digits", "--out", some_traces, "--steps", "9")
    assert "steps 2 not 9" in said


def test_collect_refuses_a_policy_that_plans_nothing_or_something_else(refused, some_policy):
    flags = ("--model", "digits", "--out", "traces", "--designs", "near-policy")
    assert "must have plans" in refused("collect", *flags, "--policy", some_policy)
    spec = replace(load_policy(some_policy).spec, plans=((0, 2),), plan_errors=(0.1,))
    save_policy(ReusePolicy(spec), some_policy)
    said = refused("collect", *flags, "--policy", some_policy, "--steps", "5")
    assert "must be trained for what is collected" in said


@pytest.mark.parametrize("name", ["collect", "train", "evaluate", "pretrain"])
def test_a_relative_out_is_refused_inside_a_ray_job(refused, monkeypatch, name):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    flags = {
        "collect": ["--model", "digits"],
        "train": ["--traces", "/shared/traces"],
        "evaluate": ["--model", "digits"],
        "pretrain": [],
    }[name]
    assert "--out must be absolute" in refused(name, "--out", "runs/out", *flags)


def test_a_missing_tracking_uri_is_refused_inside_a_ray_job(refused, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    said = refused("collect", "--model", "digits", "--out", tmp_path / "out")
    assert "--tracking-uri must be given" in said


def test_train_refuses_no_traces(refused, tmp_path):
    said = refused("train", "--traces", tmp_path / "nowhere", "--out", "policy")
    assert "plan.json" in said


def test_train_refuses_a_second_collection_that_does_not_fit(refused, some_traces, tmp_path):
    flags = ("--traces", some_traces, "--out", "policy", "--traces")
    assert "plan.json" in refused("train", *flags, tmp_path / "nowhere")
    assert "each collection once" in refused("train", *flags, some_traces)


def test_train_refuses_empty_traces(refused, some_traces):
    edit_json(some_traces / "_manifest" / "v000001.json", units=[])
    assert "empty collection" in refused("train", "--traces", some_traces, "--out", "policy")


def test_train_refuses_another_schema_version(refused, some_traces):
    edit_json(some_traces / "_manifest" / "v000001.json", schema_version=99)
    assert "schema version" in refused("train", "--traces", some_traces, "--out", "policy")


def test_train_refuses_a_truncated_shard(refused, some_traces):
    (shard,) = (some_traces / "gates").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:100])
    assert "must have" in refused("train", "--traces", some_traces, "--out", "policy")


def test_train_refuses_a_folder_with_other_files(refused, some_traces, taken):
    assert "other files" in refused("train", "--traces", some_traces, "--out", taken)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "./nowhere"], "--model must be digits"),
        (["--methods", "interval,magic"], "['magic']"),
        (["--methods", ""], "methods"),
        (["--num-samples", "0"], "num_samples must be at least 1"),
        (["--steps", "0"], "steps must be at least 2"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--sites", "attention"], "sites"),
        (["--workers", "-1"], "workers"),
        (["--policy", "./nowhere"], "policy.json"),
        (["--policy", "../out=./nowhere"], "--policy NAME must be"),
        (["--part-samples", "0"], "part_samples must be at least 1"),
        (["--guidance-scale", "nan"], "guidance_scale must be finite"),
        (["--balanced", "--sites", "block"], "balanced must come with"),
        (["--balanced", "--cache-bits", "16"], "balanced must come with"),
        (["--keep-keys"], "Leave --keep-keys out"),
        (["--keep-keys", "--cached", "kv", "--cache-bits", "32"], "cached keys of 2, 4 or 8 bits"),
        (["--cross-branch-threshold", "nan"], "cross_branch_threshold must be in"),
        (["--cross-branch-threshold", "1", "--guidance-scale", "1"], "two guidance branches"),
        (["--error-budget", "0"], "error_budget must be a positive number"),
        (["--error-budget=-0.01"], "error_budget must be a positive number"),
        (["--error-budget", "nan"], "error_budget must be a positive number"),
        (["--error-budget", "0.01"], "Pass --policy"),
    ],
)
def test_evaluate_refuses(refused, flags, said):
    assert said in refused("evaluate", "--model", "digits", "--out", "results", *flags)


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
    edit_json(some_policy / "policy.json", model_hash="f" * 16)
    said = refused("evaluate", "--model", "digits", "--policy", some_policy, "--out", "results")
    assert "must be trained for --model" in said


def test_evaluate_refuses_sites_that_a_policy_does_not_know(refused, some_policy):
    said = refused(
        *("evaluate", "--model", "digits", "--policy", some_policy),
        *("--out", "results", "--sites", "attn,ff"),
    )
    assert "Pass --sites attn" in said


def test_evaluate_refuses_a_policy_of_another_cache(refused, some_policy):
    said = refused(
        *("evaluate", "--model", "digits", "--policy", some_policy),
        *("--out", "results", "--cached", "kv"),
    )
    assert "must fit the configuration" in said


@pytest.mark.parametrize("job", ["evaluate", "sample"])
@pytest.mark.parametrize("other", [("--steps", "5"), ("--sampler", "dpm")])
def test_plans_of_another_run_are_refused(refused, some_policy, job, other):
    spec = replace(load_policy(some_policy).spec, plans=((0, 2),), plan_errors=(0.1,))
    save_policy(ReusePolicy(spec), some_policy)
    said = refused(job, "--model", "digits", "--policy", some_policy, "--out", "out", *other)
    assert "must have planned for the run. Got plans of 4 steps of ddim" in said


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
    assert "steps must be at least 1" in refused("pretrain", "--out", "out", "--steps", "0")
    assert "empty or new" in refused("pretrain", "--out", taken)


@pytest.mark.parametrize(
    "flags", [["--num-trajectories", "0"], ["--num-samples", "0"], ["--steps", "0"]]
)
def test_demo_refuses_before_it_starts_servers(monkeypatch, refused, flags):
    def no_servers(*_, **__):
        raise AssertionError("bad input must be refused before servers start")

    monkeypatch.setattr("pipeline.demo.Servers.start", no_servers)
    refused("demo", "--out", "demo", *flags)


def test_the_ui_refuses_a_folder_without_a_demonstration(refused, tmp_path):
    assert "Run make demo first" in refused("demo", "--ui", "--out", tmp_path / "nowhere")
