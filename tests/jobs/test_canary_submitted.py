"""A password in the environment of a cluster's nodes, through a whole pipeline of submitted jobs:
nothing that is left behind holds it, Ray's own files included."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from pipeline.demo import local_servers
from pipeline.demo.local_servers import ray_and_mlflow
from pipeline.demo.run import DemoConfig, stages, submit
from tests.jobs.test_canary import CANARY, ENVIRONMENT, holders

SMALL = DemoConfig(num_trajectories=12, num_samples=2, steps=6)
SAMPLE = ("--model", "digits", "--num-samples", "1", "--steps", "6")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def scratch(monkeypatch):
    """A short folder for Ray's session: its sockets have long names and a limit of 107 bytes."""
    folder = tempfile.mkdtemp(prefix="c")
    monkeypatch.setenv("TMPDIR", folder)
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def secrets(monkeypatch):
    """Plants the canary in the environment from which the head, and so every job, is started."""
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    start = local_servers.start_mlflow

    def start_with_password(*arguments, **named):
        return start(*arguments, **named).replace("//", f"//me:{CANARY}@")

    monkeypatch.setattr(local_servers, "start_mlflow", start_with_password)


def test_a_submitted_pipeline_leaves_no_canary(secrets, scratch, tmp_path):
    out = tmp_path / "demo"
    with ray_and_mlflow(out) as environment:
        assert CANARY in environment["MLFLOW_TRACKING_URI"]
        for job, flags in [*stages(SMALL, out), ("sample", [*SAMPLE, "--out", str(out / "s")])]:
            submit(job, flags, environment, out / "logs" / f"{job}.log")
        logs = [path for path in scratch.rglob("*") if path.name.startswith("job-driver-")]
        assert len(logs) == 4
        assert holders(tmp_path, scratch) == []
        token = environment["RAY_AUTH_TOKEN"]
        assert holders(tmp_path, scratch, word=token) == []
        plain = dict(environment) | {"MLFLOW_TRACKING_URI": ""}
        uri = environment["MLFLOW_TRACKING_URI"]
        typed = [*SAMPLE, "--out", str(out / "typed"), "--tracking-uri", uri]
        submit("sample", typed, plain, out / "logs" / "typed.log")
        # Ray repeats the entry point in the first line of the job's log and on the terminal.
        (record, shown) = sorted(holders(tmp_path, scratch), key=lambda path: "typed" in path)
        assert Path(record).name.startswith("job-driver-")
        assert shown == str(out / "logs" / "typed.log")
        for path in (record, shown):
            (line,) = [line for line in Path(path).read_text().splitlines() if CANARY in line]
            assert "Running entrypoint for job" in line
    assert {path.name for path in out.iterdir()} >= {"traces", "policy", "results", "s"}
    assert os.listdir(out / "mlartifacts")
