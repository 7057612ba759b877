"""Tracking against a real MLflow server and against sqlite: what is logged is found again."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy, save_policy
from dqar.policy.spec import PolicySpec
from pipeline.errors import InputError
from pipeline.tracking import (
    REGISTERED_POLICY,
    Tracker,
    read_lineage,
    write_lineage,
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server_uri(tmp_path_factory):
    """An MLflow server of this module's own."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [
        str(Path(sys.executable).parent / "mlflow"),
        *("server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await_health(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _await_health(url, server):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert server.poll() is None
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("no answer from the MLflow server")


@pytest.fixture(scope="module", params=[pytest.param("server", marks=pytest.mark.slow), "sqlite"])
def tracker(request, tmp_path_factory):
    if request.param == "server":
        return Tracker(request.getfixturevalue("server_uri"), "study")
    folder = tmp_path_factory.mktemp("sqlite")
    return Tracker(f"sqlite:///{folder}/mlflow.db", "study")


@pytest.fixture(scope="module")
def parent(tracker):
    return tracker.open_pipeline({}, "pipeline")


def stored(tracker, run):
    return tracker.client.get_run(run.run_id)


def test_params_metrics_and_status(tracker, parent):
    with tracker.run("train", stage="train", parent=parent, tags={"extra": "1"}) as run:
        run.params({"steps": 50, "sites": ("attn", "ff")})
        run.metrics({"loss": 0.5, "none": None, "nan": float("nan")})
        run.metrics({"loss": 0.25}, step=1)
    found = stored(tracker, run)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"steps": "50", "sites": "('attn', 'ff')"}
    assert found.data.metrics == {"loss": 0.25}
    history = tracker.client.get_metric_history(run.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 0.5), (1, 0.25)]


def test_children_name_their_parent_and_stage(tracker, parent):
    with (
        tracker.run("session", stage="sweep", parent=parent) as session,
        tracker.child("point", stage="point", parent=session) as run,
    ):
        pass
    tags = stored(tracker, run).data.tags
    assert (tags["mlflow.parentRunId"], tags["stage"]) == (session.run_id, "point")
    assert stored(tracker, run).info.run_name == "point"


def test_a_dataset_is_found_by_its_digest(tracker, parent):
    with tracker.run("collect", stage="collect", parent=parent) as run:
        run.dataset("traces", "abc123", "file:///shared/traces", "collection")
    (entry,) = stored(tracker, run).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("traces", "abc123")
    found = tracker.client.search_runs(
        [tracker.experiment_id], "dataset.name = 'traces' AND dataset.digest = 'abc123'"
    )
    assert [one.info.run_id for one in found] == [run.run_id]


def test_a_block_that_raises_marks_its_run_failed(tracker, parent):
    with (
        pytest.raises(KeyError),
        tracker.run("train", stage="train", parent=parent) as run,
    ):
        raise KeyError("a bug")
    assert stored(tracker, run).info.status == "FAILED"


def test_the_newest_policy_is_the_candidate_and_downloads_again(
    tracker, parent, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", tracker.uri)
    versions = []
    for threshold in (1.0, 2.0):
        folder = tmp_path / f"{threshold}"
        save_policy(ReusePolicy(PolicySpec(log_threshold=threshold)), folder)
        with tracker.run("train", stage="train", parent=parent) as run:
            run.model(folder, "policy")
        versions.append(stored(tracker, run).data.tags["policy_version"])
    assert int(versions[1]) == int(versions[0]) + 1
    copied = mlflow.artifacts.download_artifacts(
        f"models:/{REGISTERED_POLICY}@candidate", dst_path=str(tmp_path / "copied")
    )
    assert load_policy(copied).spec.log_threshold == 2.0


def test_one_pipeline_run_stands_above_all_stages(tracker, parent):
    assert tracker.open_pipeline({"parent": parent}, "again") == parent
    assert tracker.open_pipeline({"parent": "0" * 32}, "of another store") != parent


def test_an_experiment_is_made_once(tracker):
    assert Tracker(tracker.uri, "study").experiment_id == tracker.experiment_id
    assert Tracker(tracker.uri, "other study").experiment_id != tracker.experiment_id


def test_artifacts_of_sqlite_lie_beside_it(tmp_path):
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "study")
    (tmp_path / "note.txt").write_text("kept")
    with tracker.run("r", stage="s", parent=tracker.open_pipeline({}, "p")) as run:
        run.artifact(tmp_path / "note.txt")
    (found,) = tmp_path.glob(f"mlartifacts/study/{run.run_id}/artifacts/note.txt")
    assert found.read_text() == "kept"
    assert MlflowClient(tracker.uri).get_experiment_by_name("study") is not None


def test_a_dead_server_is_refused_with_the_mend(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with pytest.raises(InputError, match="Start its server, or leave the flag out"):
        Tracker(f"http://127.0.0.1:{free_port()}", "study")


def test_lineage_goes_from_stage_to_stage_through_a_file(tmp_path):
    assert read_lineage(tmp_path) == {}
    write_lineage(tmp_path, {"parent": "p", "collect": "c"})
    assert read_lineage(tmp_path) == {"parent": "p", "collect": "c"}


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "store.db").write_text("not a database")
    with pytest.raises(InputError, match="must be an MLflow tracking store that answers"):
        Tracker(f"sqlite:///{tmp_path}/store.db", "dqar")


def test_a_deleted_experiment_is_named_by_itself(tracker):
    tracker.client.delete_experiment(tracker.experiment_id)
    name = tracker.client.get_experiment(tracker.experiment_id).name
    with pytest.raises(InputError, match=r"^--experiment must not be a deleted MLflow experiment"):
        Tracker(tracker.uri, name)
