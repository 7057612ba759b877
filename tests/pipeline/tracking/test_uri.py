"""URIs of the store: each form either works and is kept, or is refused before anything is done."""

import pytest

from pipeline.errors import InputError
from pipeline.tracking.store import artifact_location
from pipeline.tracking.uri import resolve_tracking_uri

ABSOLUTE = [
    "http://host:5000",
    "https://user:pass@host/mlflow",
    "sqlite:////shared/mlflow.db",
    "postgresql://me@host/mlflow",
    "mysql+pymysql://me@host/mlflow",
]
REFUSED = [
    *("mlruns", "./mlruns", "/abs/mlruns", "file:mlruns", "file:///abs/mlruns"),
    *("sqlite://", "sqlite:///", "sqlite:rel.db", "sqlite:///:memory:", "sqlite:////shared/"),
    *("sqlite:///x?mode=memory", "sqlit:///x.db", "SQLITE:///x.db", "postgres://host/x"),
    *("databricks", "databricks://profile", "databricks-uc", "uc:http://host"),
    *("http://", "http:host", "http://host:99999", "http://host:port", "http://host?token=x"),
    *("", " ", "http://ho st", "http://host\n", "sqlite:////a\0b", "nonsense://x", "s3://b/x"),
]


@pytest.fixture(params=[False, True], ids=["here", "in a job"])
def is_job(request, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    if request.param:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    return request.param


@pytest.mark.parametrize("uri", ABSOLUTE)
def test_absolute_stores_are_taken_as_they_are(is_job, uri):
    assert resolve_tracking_uri(uri) == uri


@pytest.mark.parametrize("uri", REFUSED)
def test_what_would_be_lost_or_be_another_store_is_refused(is_job, uri, tmp_path):
    with pytest.raises(InputError, match=r"^--tracking-uri") as refusal:
        resolve_tracking_uri(uri)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "found"), [(None, "mlflow.db"), ("sqlite:///below/store.db", "below/store.db")]
)
def test_relative_stores_are_refused_inside_a_job_alone(is_job, tmp_path, uri, found):
    if is_job:
        with pytest.raises(InputError, match="must be given inside a Ray job"):
            resolve_tracking_uri(uri)
    else:
        assert resolve_tracking_uri(uri) == f"sqlite:///{tmp_path}/{found}"


def test_the_flag_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
    assert resolve_tracking_uri("http://from-flag:5000") == "http://from-flag:5000"
    assert resolve_tracking_uri(None) == "http://from-environment:5000"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("study", "study"),
        ("other study", "other%20study"),
        ("team/study", "experiment-"),
        ("..", "experiment-"),
        ("%2e%2e/x", "experiment-"),
        ("ü" * 200, "experiment-"),
    ],
)
def test_no_name_leads_out_of_the_artifact_folder(name, folder):
    location = artifact_location("sqlite:////shared/mlflow.db", name)
    assert location is not None
    above, _, last = location.rpartition("/")
    assert above == "file:///shared/mlartifacts"
    assert last.startswith(folder)
    assert len(last) <= 100
    assert artifact_location("http://host", name) is None
