"""Secrets in texts: URIs, query parameters, headers, the environment and the command line."""

import sys

import pytest

from pipeline.cli import run_job
from pipeline.errors import IncompleteError, InputError
from pipeline.redaction import typed_command, without_secrets
from pipeline.tracking_flags import TrackingFlags

CANARY = "canary-4711"


@pytest.mark.parametrize(
    "text",
    [
        f"http://user:{CANARY}@127.0.0.1:5000/x",
        f"'http://user:{CANARY}@host' and http://other:{CANARY}@host",
        f"http://user:with/slash{CANARY}@and@host:5000",
        f"http://host:5000?token={CANARY}",
        f"https://host/a?x=1&X-Amz-Signature={CANARY}&y=2",
        f"https://host/a?X-Amz-Credential={CANARY}/us-east-1",
        f"https://host/#access_token={CANARY}",
        f"http://host/?passwd={CANARY}, said the server",
        f"{{'Authorization': 'Bearer {CANARY}'}}",
        f"Authorization: Basic {CANARY}",
    ],
)
def test_a_secret_is_hidden(text):
    assert CANARY not in without_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/prefix must answer",
        "sqlite:////shared/mlflow.db",
        "http://127.0.0.1:5000/api?max_results=1 did not answer",
        "Basic knowledge of tokens=5 is enough; mail me@example.org",
    ],
)
def test_other_text_stays(text):
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "name", ["MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"]
)
def test_secrets_of_the_environment_are_hidden_anywhere(monkeypatch, name):
    monkeypatch.setenv(name, CANARY)
    assert without_secrets(f"the server got {CANARY}.") == "the server got ...."


def test_short_values_and_other_variables_garble_nothing(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "on")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "longvalue")
    assert without_secrets("a longvalue on the way") == "a longvalue on the way"


@pytest.mark.parametrize("spelling", [f"{CANARY} and", f"{CANARY}%20and"])
def test_secrets_of_the_command_line_are_hidden_in_any_spelling(monkeypatch, spelling):
    monkeypatch.setattr(sys, "argv", ["x.py", f"--tracking-uri=http://me:{spelling}@host"])
    assert CANARY not in without_secrets(f"wrong password {CANARY} and, {CANARY}%20and")
    assert CANARY not in typed_command("sample.py")
    assert typed_command("sample.py").startswith("python jobs/sample.py ")


@pytest.mark.parametrize(
    ("error", "code"), [(InputError, 2), (IncompleteError, 1), (RuntimeError, 1)]
)
def test_no_error_of_a_job_prints_a_secret(capsys, error, code):
    def run(flags):
        raise error(f"no answer from http://me:{CANARY}@host?token={CANARY}")

    assert run_job(TrackingFlags, run, name="x.py", args=[]) == code
    said = capsys.readouterr().err
    assert CANARY not in said
    assert "no answer from http://...@host" in said
    assert ("Traceback" in said) == (error is RuntimeError)
