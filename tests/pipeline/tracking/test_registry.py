"""Registered policies: MLflow models without pickle, described and promoted."""

import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy, save_policy
from dqar.policy.spec import PolicySpec
from pipeline.tracking import REGISTERED_POLICY, Tracker
from pipeline.tracking.connection import bounded_requests
from pipeline.tracking.operations import DescribePolicy, PromotePolicy
from pipeline.tracking.registry import CHAMPION, champion, promote

PLANS = ((0, 2, 5), (0, 1, 3, 5))
SPEC = PolicySpec(
    features=("log_snr",), plans=PLANS, plan_errors=(0.2, 0.1), steps=6, forecast_order=2
)


@pytest.fixture
def policy(tmp_path):
    save_policy(ReusePolicy(SPEC), tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def tracker(store_uri):
    return Tracker(store_uri, "policies")


def trained(tracker: Tracker, policy: Path) -> str:
    """Register a policy; return the id of its training run."""
    parent = tracker.open_pipeline({}, "pipeline")
    with tracker.run("train", stage="train", parent=parent) as run:
        run.model(policy, "policy")
    return run.run_id


def test_a_model_gives_the_schedules_of_its_policy(tracker, policy, store_uri, monkeypatch):
    trained(tracker, policy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", store_uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mlflow.pyfunc.load_model(f"models:/{REGISTERED_POLICY}@candidate")
        found = model.predict(pd.DataFrame({"computed_steps": [4, 3]}))
        assert [json.loads(text) for text in found["computed"]] == [list(PLANS[1]), list(PLANS[0])]
        assert list(found["predicted_rel_l2"]) == [0.1, 0.2]
        assert set(found["sampling_steps"]) == {6}
        with pytest.raises(ValueError, match=r"one of \[3, 4\]. Got 5"):
            model.predict(pd.DataFrame({"computed_steps": [5]}))
        with pytest.raises(MlflowException, match="computed_steps"):
            model.predict(pd.DataFrame({"other": [4]}))


def test_a_model_is_pinned_unpickled_and_still_a_policy_folder(tracker, policy, tmp_path):
    run = trained(tracker, policy)
    folder = Path(tracker.client.download_artifacts(run, "policy", str(tmp_path)))
    assert load_policy(folder).spec == SPEC
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".bin")]
    pins = (folder / "requirements.txt").read_text().split()
    assert {pin.partition("==")[0] for pin in pins} >= {"mlflow", "torch", "safetensors"}
    assert all("==" in pin and "+" not in pin for pin in pins)


def test_figures_stand_at_the_version_of_their_training(tracker, policy):
    first, second = trained(tracker, policy), trained(tracker, policy)
    for run, text in ((first, "0.1"), (second, "0.2")):
        tracker.log(DescribePolicy(run=run, text=text, values={"rel_l2": text}))
    for version, text in (("1", "0.1"), ("2", "0.2")):
        found = tracker.client.get_model_version(REGISTERED_POLICY, version)
        assert (found.description, found.tags) == (text, {"rel_l2": text})


def test_only_a_version_that_has_beaten_the_champion_replaces_it(tracker, policy):
    first, second = trained(tracker, policy), trained(tracker, policy)
    assert champion(tracker.client) is None
    for run, beaten, expected in (
        (first, [], "1"),
        (second, [], "1"),
        (second, ["another run"], "1"),
        (first, [second], "1"),
        (second, [first], "2"),
        (second, [first], "2"),
        ("a run without a version", [second], "2"),
    ):
        tracker.log(PromotePolicy(run=run, beaten=beaten))
        assert champion(tracker.client) == expected, (run, beaten)


def test_an_alias_that_was_moved_in_between_is_left(tracker, policy):
    runs = [trained(tracker, policy) for _ in range(3)]
    tracker.log(PromotePolicy(run=runs[0], beaten=[]))

    class Overtaken(MlflowClient):
        """Client before whose second look at the alias another evaluation has moved it."""

        looks = 0

        def get_model_version_by_alias(self, name, alias):
            self.looks += 1
            if self.looks == 2:
                super().set_registered_model_alias(name, alias, "3")
            return super().get_model_version_by_alias(name, alias)

    client = Overtaken(tracker.uri, tracker.uri)
    promote(client, runs[1], PromotePolicy(run=runs[1], beaten=[runs[0]]))
    found = tracker.client.get_model_version_by_alias(REGISTERED_POLICY, CHAMPION)
    assert str(found.version) == "3"


def test_a_registered_policy_is_read_from_the_store_that_is_named(
    tracker, policy, monkeypatch, tmp_path
):
    trained(tracker, policy)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/another.db")
    for uri in ("models:/dqar-policy@candidate", "models:/dqar-policy/1"):
        assert load_policy(uri, tracker.uri).spec == SPEC
    for uri, said in (
        ("models:/dqar-policy@nobody", "alias"),
        ("models:/dqar-policy/7", "must be a registered model"),
        ("models:/dqar-policy", "no models:/NAME@ALIAS"),
    ):
        with pytest.raises(ValueError, match=said) as refusal:
            load_policy(uri, tracker.uri)
        assert len(str(refusal.value).splitlines()) == 1
    assert not (tmp_path / "another.db").exists()


def test_a_dead_store_is_one_line_without_its_password():
    with pytest.raises(ValueError, match="must be a registered model") as refusal:
        load_policy("models:/dqar-policy@champion", "http://user:hunter22xyz@127.0.0.1:9")
    assert "hunter22xyz" not in str(refusal.value)
    assert refusal.value.__suppress_context__


def test_a_store_that_fails_has_not_said_that_there_is_no_champion():
    class Failing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(503)

        def log_message(self, format, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        with bounded_requests(), pytest.raises(MlflowException):
            champion(MlflowClient(uri, uri))
        server.shutdown()
