"""Command lines of the jobs: help that documents every flag, and bad input in one line with exit
code 2."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy, save_policy
from pipeline.collect.driver import FIRST_ROUND
from pipeline.collect.flags import CollectFlags
from pipeline.evaluate.flags import EvaluateFlags
from pipeline.exploration.designs import DESIGNS
from pipeline.flags.help import field_texts
from pipeline.flags.names import flags_of
from pipeline.flags.values import as_text
from pipeline.methods.base import GRIDS
from pipeline.methods.defaults import DEFAULT_METHODS, SweepDensity
from pipeline.methods.registry import offered_names, paper_names
from pipeline.models.sampling_choices import SAMPLER, SITES, STEPS

JOBS = Path(__file__).parents[2] / "jobs"
NAMES = sorted(path.stem for path in JOBS.glob("*.py"))


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def words_of(module):
    """The first words that a job needs before its flags, with the dataclass of each."""
    flags = module.FLAGS
    return (
        {(word,): kind for word, kind in flags.items()} if isinstance(flags, dict) else {(): flags}
    )


@pytest.mark.parametrize("name", NAMES)
def test_help_documents_every_flag(run_job, load_job, name):
    module = load_job(name)
    for words, kind in words_of(module).items():
        code, out, _ = run_job(name, *words, "--help")
        assert code == 0
        # None stands for what the text says.
        assert "None" not in out
        # Each flag has its placeholder, then a text.
        assert {flag for flag in flags_of(kind) if not shows_text(out, flag)} == set()
    assert not list(Path.cwd().iterdir())


def shows_text(page, flag):
    """True if a help page has a sentence beside a flag, or below it."""
    found = re.search(rf"^  {flag}(?: \S+)?\s+([A-Z].*)", page, re.MULTILINE)
    return found is not None


HEAVY = ("torch", "ray", "mlflow", "pyarrow", "diffusers", "numpy", "pandas")


@pytest.mark.parametrize("name", NAMES)
def test_help_imports_nothing_heavy(name):
    code = (
        "import runpy, sys\n"
        "sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, JOBS / f"{name}.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=JOBS.parent,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_help_states_the_defaults_that_follow_a_policy():
    texts = field_texts(CollectFlags)
    for name, field in {
        "forecast_orders": "forecast_orders",
        "error_feedback": "feedbacks",
    }.items():
        assert f"or {as_text(FIRST_ROUND[field])}." in texts[name]
    for kind in (CollectFlags, EvaluateFlags):
        texts = field_texts(kind)
        assert f"or {STEPS}." in texts["steps"]
        assert f"or {SAMPLER}." in texts["sampler"]
        assert f"or {as_text(SITES)}." in texts["sites"]


def test_help_names_every_design_and_every_method():
    text = field_texts(CollectFlags)["exploration"]
    assert all(design in text for design in DESIGNS)
    text = field_texts(EvaluateFlags)["methods"]
    assert set(offered_names()) - set(re.findall(r"[\w-]+", text)) == set(DEFAULT_METHODS)
    assert not set(DEFAULT_METHODS) & set(paper_names())


def test_sweep_densities_are_the_grids():
    assert get_args(SweepDensity) == tuple(GRIDS)


def test_help_of_a_script_as_a_user_starts_it():
    shown = subprocess.run(
        [sys.executable, JOBS / "collect.py", "--help"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0
    assert "--num-trajectories" in shown.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--steps", "0"], "steps must be at least 2"),
        (["--steps", "many"], "--steps must be a whole number. Got 'many'"),
        (["--target-file-mb", "-1"], "target_file_mb must be a number of at least 0"),
        (["--target-file-mb", "inf"], "target_file_mb must be a number of at least 0"),
        (["--num-trajectories", "0"], "num_trajectories must be at least 1"),
        (["--num-trajectories", "-3"], "num_trajectories must be at least 1"),
        (["--unit-size", "0"], "unit_size must be at least 1"),
        (["--unit-size", "many"], "--unit-size must be a whole number or auto"),
        (["--worker-timeout-minutes", "0"], "worker_timeout_minutes must be above 0"),
        (["--worker-timeout-minutes", "nan"], "worker_timeout_minutes must be above 0"),
        (["--unit-timeout-minutes", "0"], "unit_timeout_minutes must be above 0"),
        (["--sites", "attention"], "sites"),
        (["--sites", ""], "sites"),
        (["--exploration", "coin"], "Choose from paced"),
        (["--exploration", "near-policy"], "must come with --explore-around"),
        (["--explore-around", "./nowhere"], "must come with near-policy among the designs"),
        (["--explore-around", "./nowhere", "--exploration", "near-policy"], "policy.json must"),
        (["--forecast-orders", "first"], "--forecast-orders must be whole numbers with commas"),
        (["--forecast-orders", "0,3"], "forecast_orders must be chosen from (0, 1, 2)"),
        (["--error-feedback", "some"], "--error-feedback must be numbers with commas"),
        (["--error-feedback", "0,2"], "feedbacks must be gains from 0 to 1"),
        (["--error-feedback", "nan"], "feedbacks must be gains from 0 to 1"),
        (["--error-feedback", ""], "feedbacks must be gains from 0 to 1"),
        (["--forecast-orders", ""], "forecast_orders must be chosen from (0, 1, 2)"),
        (["--sampler", "euler"], "--sampler must be one of ddim, dpm. Got 'euler'"),
        (["--guidance-scale", "inf"], "guidance_scale must be finite"),
        (["--workers", "-1"], "workers"),
        (["--gpus-per-worker", "-0.5"], "gpus_per_worker"),
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
    assert "steps 2 not 9" in said


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


def test_train_refuses_a_folder_with_other_files(refused, some_traces, taken):
    assert "other files" in refused("train", "--traces", some_traces, "--out", taken)
