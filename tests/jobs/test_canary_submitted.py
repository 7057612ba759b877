"""A password in the environment of a cluster's nodes, through a whole pipeline of submitted jobs:
nothing that is left behind holds it, Ray's own files included."""

import os
import shutil
import tempfile
from pathlib import Path
from secrets import token_hex

import pytest

from pipeline.demo import local_servers
from pipeline.demo.local_servers import ray_and_mlflow
from pipeline.demo.run import DemoConfig, stages, submit
from tests.jobs.test_canary import ENVIRONMENT, holders

CANARY = f"canary-{token_hex(6)}"
"""Drawn anew, since Ray keeps a copy of the tests among what is submitted."""
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
def planted(monkeypatch):
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


def test_a_submitted_pipeline_leaves_no_canary(planted, scratch):
    out = scratch / "demo"
    with ray_and_mlflow(out) as environment:
        assert CANARY in environment["MLFLOW_TRACKING_URI"]
        for job, flags in [*stages(SMALL, out), ("sample", [*SAMPLE, "--out", str(out / "s")])]:
            submit(job, flags, environment, out / "logs" / f"{job}.log")
        logs = [path for path in scratch.rglob("*") if path.name.startswith("job-driver-")]
        assert len(logs) == 4
        for word in (CANARY, environment["RAY_AUTH_TOKEN"]):
            assert holders(scratch, word=word) == []
        typed = ["--out", str(out / "typed"), "--tracking-uri", environment["MLFLOW_TRACKING_URI"]]
        submit("sample", [*SAMPLE, *typed], environment, out / "logs" / "typed.log")
        # Ray repeats an entry point in the first line of the job's log, and so on the terminal.
        found = [Path(path) for path in holders(scratch, word=CANARY)]
        kinds = {path.name.partition("raysubmit")[0] for path in found}
        assert kinds == {
            "job-driver-",
            "typed.log",
        }
        for path in found:
            (line,) = [line for line in path.read_text().splitlines() if CANARY in line]
            assert "Running entrypoint for job" in line
    assert {path.name for path in out.iterdir()} >= {"traces", "policy", "results", "s"}
    assert os.listdir(out / "mlartifacts")
