"""deploy/mlflow.sh on this machine: whom it answers, and what the doctor makes of it."""

import os
import signal
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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def status(port, host):
    """HTTP status of an API call under a name."""
    url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=0"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers={"Host": host}), timeout=20
        ) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return None


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a server by a command; gives its port. All end with this module."""
    started = []

    def run(*command):
        port, folder = free_port(), tmp_path_factory.mktemp("mlflow")
        environment = os.environ | {
            "PORT": str(port),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
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


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "mlflow.internal"])
def test_every_name_is_answered_with_its_port_and_without(port, name):
    assert status(port, name) == status(port, f"{name}:{port}") == 200


def test_a_strange_name_is_refused(port):
    assert status(port, "evil.example") == status(port, f"evil.example:{port}") == 403


def test_the_doctor_is_answered(port):
    assert call_store(f"http://127.0.0.1:{port}") is None


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
