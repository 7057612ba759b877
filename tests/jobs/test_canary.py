"""A password in every place that takes one, through a whole pipeline and its failures: nothing that
is left behind holds it."""

import os
from pathlib import Path

import pytest

from benchmarks.distributed.mlflow_kills import COMPLETE, Job
from benchmarks.distributed.mlflow_server import MlflowServer

CANARY = "canary-4711"
ENVIRONMENT = ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def server(tmp_path):
    server = MlflowServer(tmp_path / "server")
    server.start()
    yield server
    server.kill()


def holders(*folders):
    """Files that hold the canary."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in files if CANARY.encode() in path.read_bytes()]


def test_a_canary_is_found_nowhere(server, tmp_path, monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    secret = server.url.replace("//", f"//me:{CANARY}@")
    said = {}
    for stage in COMPLETE:
        ended = Job(stage, tmp_path / stage / "whole", secret).end()
        assert ended.code == 0, (stage, ended)
        said[stage] = ended.stdout
    # Experiment, folder, store: each is refused with a URI in reach.
    refused = {
        "dead": secret.replace(str(server.port), "1"),
        "query": f"{server.url}?token={CANARY}",
        "database": f"postgresql://me:{CANARY}@127.0.0.1:1/mlflow",
        "scheme": f"sqlit://me:{CANARY}@host/x",
    }
    for name, uri in refused.items():
        ended = Job("sweep", tmp_path / "refused" / name, uri).end()
        assert (ended.code, ended.stderr.count("\n")) == (2, 1), ended
        assert "..." in ended.stderr
    for name, flags in {
        "s3": ["--traces", f"s3://me:{CANARY}@bucket/traces"],
        "gone": ["--traces", f"s3://bucket/traces?X-Amz-Signature={CANARY}/../x"],
    }.items():
        ended = Job("train", tmp_path / "refused" / name, secret, *flags).end()
        assert (ended.code, ended.stderr.count("\n")) == (2, 1), ended
    server.kill()
    ended = Job("sweep", tmp_path / "refused" / "killed", secret).end()
    assert ended.code == 2
    ray = Path(os.environ["RAY_TMPDIR"])
    assert holders(tmp_path) == []
    # Ray's own files about the driver hold its command line as it was typed.
    assert [path for path in holders(ray) if not path.endswith(RAYS_OWN)] == []


RAYS_OWN = ("gcs_server.out", "export_events.log")
"""Ends of the names of Ray's files that repeat the driver's command line."""
