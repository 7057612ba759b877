"""Jobs as their doors are entered, without a process of their own."""

import importlib.util
from pathlib import Path

import pytest

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import save_policy
from dqar.policy.spec import PolicySpec
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.models.model_info import find_model
from pipeline.traces.commit import claim_output, write_manifest
from pipeline.traces.tables import commit_unit, to_table

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def load_job():
    """A job's module by its name."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"job_{name}", JOBS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def run_job(load_job, monkeypatch, tmp_path, capsys):
    """Runs a job in this process, in a folder of its own; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)

    def run(name, *flags):
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, flags)])
        job = load_job(name)
        try:
            code = job.main()
        except SystemExit as ended:
            code = ended.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


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

    from pipeline.traces.tables import GATES, TRAJECTORIES

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

    claim_output(root, plan)
    (unit,) = plan.units()
    assert to_table(row(GATES), GATES).num_rows == 1
    receipt = commit_unit(root, unit, row(TRAJECTORIES), row(GATES), {})
    facts = {"num_layers": 8, "site_flops": find_model("digits").site_flops}
    write_manifest(root, plan, {unit.unit_id: receipt}, facts)
    return root


@pytest.fixture
def some_policy(tmp_path):
    """An untrained policy that fits the shipped model."""
    info = find_model("digits")
    spec = PolicySpec(num_layers=8, model_hash=info.model_hash, steps=4, sampler="ddim")
    save_policy(ReusePolicy(spec), tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def taken(tmp_path):
    """A folder that holds something else."""
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    return folder


@pytest.fixture
def sample_job(run_job):
    """Run jobs/sample.py on digits; return exit code, stdout and stderr."""

    def run(*flags):
        default = {"--model": "digits", "--out": "out"}
        missing = [word for pair in default.items() if pair[0] not in flags for word in pair]
        return run_job("sample", *missing, *flags)

    return run


@pytest.fixture
def eager_policy(tmp_path):
    """An untrained policy for the shipped model that always says reuse."""
    spec = PolicySpec(
        num_layers=8,
        model_hash=find_model("digits").model_hash,
        steps=4,
        sampler="dpm",
        guidance=3.0,
        log_threshold=1e9,
    )
    save_policy(ReusePolicy(spec), tmp_path / "policy")
    return tmp_path / "policy"
