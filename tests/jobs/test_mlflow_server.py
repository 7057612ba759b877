"""deploy/mlflow.sh on this machine: whom it answers, and what the doctor makes of it."""

import base64
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pipeline.demo.local_servers import free_port
from pipeline.doctor.checks import check_tracking
from pipeline.tracking import call_store

SCRIPT = Path(__file__).parents[2] / "deploy" / "mlflow.sh"
BIN = Path(sys.executable).parent

SLOW = [pytest.mark.slow, pytest.mark.timeout(300)]
PASSWORD = "canary-%4711"


def test_an_address_without_a_password_is_refused(tmp_path):
    environment = {"PATH": os.environ["PATH"], "LISTEN": "0.0.0.0"}
    ended = subprocess.run(
        [SCRIPT, tmp_path / "store"], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    assert "MLFLOW_AUTH_ADMIN_PASSWORD: must be set where LISTEN is not 127.0.0.1" in ended.stderr
    assert not list(tmp_path.iterdir())


def slow(test):
    for mark in SLOW:
        test = mark(test)
    return test


def status(port, host, user=None):
    """HTTP status of an API call under a name, as ``user:password`` if given."""
    url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=0"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers={"Host": host} | _credentials(user)), timeout=20
        ) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return None


def _credentials(user):
    if user is None:
        return {}
    return {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a server by a command; gives its port. All end with this module."""
    started = []

    def run(*command, **more):
        port, folder = free_port(), tmp_path_factory.mktemp("mlflow")
        environment = os.environ | {
            "PORT": str(port),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            **more,
        }
        words = [str(word).format(folder=folder, port=port) for word in command]
        with (folder / "log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    words,
                    env=environment,
                    cwd=folder,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        deadline = time.monotonic() + 120
        while status(port, f"127.0.0.1:{port}") is None:
            assert started[-1].poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        return port

    yield run
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def port(start):
    return start(SCRIPT, "{folder}", "{folder}/artifacts", "mlflow.internal")


@slow
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "mlflow.internal"])
def test_every_name_is_answered_with_its_port_and_without(port, name):
    assert status(port, name) == status(port, f"{name}:{port}") == 200


@slow
def test_a_strange_name_is_refused(port):
    assert status(port, "evil.example") == status(port, f"evil.example:{port}") == 403


@slow
def test_the_server_listens_on_this_machine_alone(port):
    own = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout
    for address in own.split():
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
            client.settimeout(5)
            assert client.connect_ex((address, port)) != 0


@slow
@pytest.mark.skipif(
    importlib.util.find_spec("flask_wtf") is None, reason="mlflow[auth] is not installed"
)
def test_another_address_asks_for_the_password(start, monkeypatch):
    port = start(
        *(SCRIPT, "{folder}", "{folder}/artifacts"),
        LISTEN="0.0.0.0",
        MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORD,
    )
    assert status(port, "127.0.0.1") == status(port, "127.0.0.1", "admin:password1234") == 401
    assert status(port, "127.0.0.1", f"admin:{PASSWORD}") == 200
    uri = f"http://127.0.0.1:{port}"
    assert not check_tracking(uri, call_store(uri)).is_ok
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert call_store(uri) is None


@slow
def test_the_doctor_is_answered(port):
    assert call_store(f"http://127.0.0.1:{port}") is None


@slow
def test_a_refusal_is_explained_by_the_doctor(start):
    """A server as one starts it who was told of --allowed-hosts by half."""
    port = start(
        *(BIN / "mlflow", "server", "--port", "{port}", "--workers", "1"),
        *("--backend-store-uri", "sqlite:///{folder}/mlflow.db"),
        *("--allowed-hosts", "mlflow.internal"),
    )
    uri = f"http://127.0.0.1:{port}"
    finding = check_tracking(uri, call_store(uri))
    assert not finding.is_ok
    assert "--allowed-hosts '127.0.0.1,127.0.0.1:*,localhost:*,127.0.0.1:*'" in finding.said
