"""Command lines of collect.py and train.py: bad input in one line with exit code 2."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy, save_policy

JOBS = Path(__file__).parents[2] / "jobs"
NAMES = sorted(path.stem for path in JOBS.glob("*.py"))


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--steps", "0"], "--steps must be from 2 to 100000"),
        (["--steps", "many"], "--steps must be a whole number. Got 'many'"),
        (["--target-file-mb", "-1"], "--target-file-mb must be from 0 to 1000000"),
        (["--target-file-mb", "inf"], "--target-file-mb must be from 0 to 1000000"),
        (["--num-trajectories", "0"], "--num-trajectories must be from 1"),
        (["--num-trajectories", "-3"], "--num-trajectories must be from 1"),
        (["--unit-size", "0"], "--unit-size must be from 1 to 65536"),
        (["--unit-size", "many"], "--unit-size must be a whole number or auto"),
        (["--worker-timeout-minutes", "0"], "--worker-timeout-minutes must be above 0"),
        (["--worker-timeout-minutes", "nan"], "--worker-timeout-minutes must be a number"),
        (["--unit-timeout-minutes", "0"], "--unit-timeout-minutes must be above 0"),
        (["--sites", "attention"], "--sites must"),
        (["--sites", ""], "--sites must hold"),
        (["--exploration", "coin"], "Choose from paced"),
        (["--exploration", "near-policy"], "must come with --explore-around"),
        (["--explore-around", "./nowhere"], "must come with near-policy among the designs"),
        (["--explore-around", "./nowhere", "--exploration", "near-policy"], "policy.json must"),
        (["--forecast-orders", "first"], "--forecast-orders must be whole numbers with commas"),
        (["--forecast-orders", "0,3"], "--forecast-orders must be from 0 to 2"),
        (["--error-feedback", "some"], "--error-feedback must be numbers with commas"),
        (["--error-feedback", "0,2"], "--error-feedback must be from 0 to 1"),
        (["--error-feedback", "nan"], "--error-feedback must be numbers"),
        (["--error-feedback", ""], "--error-feedback must hold at least one value"),
        (["--forecast-orders", ""], "--forecast-orders must hold at least one value"),
        (
            ["--sampler", "euler"],
            "--sampler must be one of ddim, dpm, unipc, deis, saved. Got 'euler'",
        ),
        (["--guidance-scale", "inf"], "--guidance-scale must be from -1000 to 1000"),
        (["--workers", "-1"], "--workers must be from 0"),
        (["--workers", "1" + "0" * 20], "Got 100000000000000000000. Pass --workers 2"),
        (["--seed", str(2**63)], "--seed must be from -9223372036854775807"),
        (["--gpus-per-worker", "-0.5"], "--gpus-per-worker"),
        (["--unknown"], "There is no flag --unknown"),
        (["--policy", "p"], "There is no flag --policy"),
    ],
)
def test_collect_refuses(refused, flags, said):
    assert said in refused("collect", "--model", "digits", "--out", "traces", *flags)


@pytest.mark.parametrize("name", ["collect", "evaluate"])
def test_a_model_that_is_nowhere_is_refused(refused, name):
    assert "--model must be digits" in refused(name, "--model", "./nowhere", "--out", "out")


def test_collect_refuses_storage_that_it_does_not_know(refused):
    said = refused("collect", "--model", "digits", "--out", "az://bucket/x")
    assert "s3://BUCKET/PREFIX" in said


@pytest.mark.parametrize("size", ["48", "auto"])
def test_collect_refuses_a_folder_with_other_files(refused, taken, size):
    flags = ("--model", "digits", "--out", taken, "--unit-size", size)
    assert "other files" in refused("collect", *flags)


def test_collect_refuses_another_plans_folder(refused, some_traces):
    said = refused("collect", "--model", "digits", "--out", some_traces, "--steps", "9")
    assert "steps 2 instead of 9" in said


def test_collect_refuses_a_policy_that_plans_nothing_or_something_else(refused, some_policy):
    flags = ("--model", "digits", "--out", "traces", "--exploration", "near-policy")
    assert "must have plans" in refused("collect", *flags, "--explore-around", some_policy)
    spec = replace(load_policy(some_policy).spec, plans=((0, 2),), plan_errors=(0.1,))
    save_policy(ReusePolicy(spec), some_policy)
    said = refused("collect", *flags, "--explore-around", some_policy, "--steps", "5")
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


def test_train_refuses_to_leave_out_what_it_has_not(refused, some_traces):
    said = refused(
        "train", "--traces", some_traces, "--out", "policy", "--drop-features", "entropy"
    )
    assert "without must be features of the set schedule: log_snr" in said


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_train_refuses_a_seed_that_no_generator_takes(refused, some_traces, seed):
    said = refused("train", "--traces", some_traces, "--out", "policy", f"--seed={seed}")
    assert "seed must be from 0" in said


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


@pytest.mark.parametrize("table", ["gates", "trajectories"])
def test_train_refuses_a_damaged_shard_before_it_writes(run_job, some_traces, tmp_path, table):
    (shard,) = (some_traces / table).glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    before = sorted(tmp_path.iterdir())
    code, out, err = run_job("train", "--traces", some_traces, "--out", tmp_path / "policy")
    assert (code, err.count("\n"), out.count("\n")) == (2, 1, 1)
    assert "must have the SHA-256" in err
    assert sorted(tmp_path.iterdir()) == before


def test_train_refuses_a_folder_with_other_files(refused, some_traces, taken):
    assert "other files" in refused("train", "--traces", some_traces, "--out", taken)
