"""A password in every place that takes one, through a whole pipeline and its failures: nothing that
is left behind holds it."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.distributed.logged_runs import await_run, stage_runs
from benchmarks.distributed.mlflow_server import MlflowServer
from benchmarks.distributed.stage_jobs import TRACES, Job, make_traces
from pipeline.tracking.pending import PENDING

CANARY = "canary-4711"
ENVIRONMENT = ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def server(tmp_path):
    server = MlflowServer(tmp_path / "server")
    server.start()
    yield server
    server.kill()


def holders(*folders, word=CANARY):
    """Files that hold the canary, or another word."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in files if word.encode() in path.read_bytes()]


@pytest.fixture
def secret(server, monkeypatch):
    """Tracking URI of the server with the canary as its password."""
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    return server.url.replace("//", f"//me:{CANARY}@")


@pytest.mark.parametrize("stages", [("train", "sample", "sweep"), ("collect", "evaluate")])
def test_a_canary_is_found_nowhere(secret, tmp_path, stages):
    if "train" in stages:
        make_traces(tmp_path / TRACES)
    for stage in stages:
        ended = Job(stage, tmp_path / stage / "whole", secret).end()
        assert ended.code == 0, (stage, ended)
    assert holders(tmp_path) == []
    # Ray's own files about the driver hold its command line as it was typed.
    ray = Path(os.environ["RAY_TMPDIR"])
    assert [path for path in holders(ray) if not path.endswith(RAYS_OWN)] == []


def test_a_refusal_holds_no_canary(server, secret, tmp_path):
    uris = {
        "dead": secret.replace(str(server.port), "1"),
        "query": f"{server.url}?token={CANARY}",
        "database": f"postgresql://me:{CANARY}@127.0.0.1:1/mlflow",
        "scheme": f"sqlit://me:{CANARY}@host/x",
    }
    make_traces(tmp_path / TRACES)
    traces = (f"s3://me:{CANARY}@bucket/traces", f"s3://bucket/x?X-Amz-Signature={CANARY}")
    jobs = [Job("sweep", tmp_path / "refused" / name, uri) for name, uri in uris.items()]
    jobs += [
        Job("train", tmp_path / "train" / f"{number}", secret, "--traces", uri)
        for number, uri in enumerate(traces)
    ]
    for job in jobs:
        ended = job.end()
        assert (ended.code, ended.stderr.count("\n")) == (2, 1), ended
        assert "..." in ended.stderr
    assert holders(tmp_path) == []


def await_parameters(server, run_id):
    """Wait until a run holds parameters: the job then knows that its run exists, while the run
    itself is in the database before the job has its answer."""
    query = "SELECT count(*) FROM params WHERE run_uuid = ?"
    deadline = time.monotonic() + 120
    with closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)) as database:
        while not database.execute(query, (run_id,)).fetchone()[0]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_server_that_is_killed_leaves_no_canary(server, secret, tmp_path):
    known = stage_runs(server, "sweep")
    job = Job("sweep", tmp_path / "sweep" / "cut", secret)
    await_parameters(server, await_run(server, "sweep", known, job))
    server.kill()
    ended = job.end()
    assert ended.code == 1
    assert "Connection refused" in ended.stderr
    assert (tmp_path / "sweep" / "cut" / PENDING).exists()
    assert holders(tmp_path) == []


RAYS_OWN = ("gcs_server.out", "export_events.log")
"""Ends of the names of Ray's files that repeat the driver's command line."""
