"""Jobs as their doors are entered, without a process of their own."""

import importlib.util
from pathlib import Path

import pytest

from pipeline.door import enter

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
            code = enter(job.parser(), job.run)
        except SystemExit as ended:
            code = ended.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
