"""Fixtures and settings of all tests: temporary home, no network, fixed threads, a tiny model."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

import pytest
from hypothesis import settings

# Set before any library reads them, so that no test touches the user's home or the network. The
# path is short, since Ray puts sockets below it whose paths may have 107 bytes at most.
HOME = tempfile.mkdtemp(prefix="dq-")
os.environ |= {
    "HOME": HOME,
    "RAY_TMPDIR": HOME,
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
}

# Derandomised, so that a failure repeats; no database, so that no files are written.
settings.register_profile("quick", deadline=None, max_examples=25, derandomize=True, database=None)
settings.load_profile("quick")


def pytest_configure(config):
    set_threads()


def set_threads():
    """Use DQAR_TEST_THREADS threads, one by default; no test may depend on the number."""
    import torch

    torch.set_num_threads(int(os.environ.get("DQAR_TEST_THREADS", "1")))


def pytest_unconfigure(config):
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def threads():
    """Restore the number of threads, since a worker built by a test sets it to one."""
    set_threads()


@pytest.fixture
def tiny_dit():
    """DiT with random weights: 3 blocks, 16 tokens, 10 classes, adaLN gates that are not zero."""
    import torch
    from diffusers import DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=1,
            out_channels=1,
            num_layers=3,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
        )
        for name, weight in model.named_parameters():
            if "norm1.linear" in name:
                torch.nn.init.normal_(weight, std=0.4)
    return model.eval().requires_grad_(False)


@pytest.fixture
def ddim():
    """DDIM scheduler that does not clip samples to [-1, 1]."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(num_train_timesteps=1000, clip_sample=False)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """Address of an S3 server in a separate process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("s3") / "server.log"
    with log.open("wb") as stream:
        command = [sys.executable, Path(__file__).with_name("s3_server.py"), str(port)]
        server = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while not _answers(port):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture
def s3(s3_server, monkeypatch):
    """URI of a new bucket of the S3 server, with the environment variables to reach the server."""
    settings_of = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": "us-east-1",
    }
    for name, value in settings_of.items():
        monkeypatch.setenv(name, value)
    name = f"test-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(f"{s3_server}/{name}", data=b"", method="PUT")
    urllib.request.urlopen(request, timeout=30).close()
    return f"s3://{name}"


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    """URI that nothing was written to: a local folder, or a prefix in a bucket."""
    if request.param == "folder":
        return str(tmp_path / "place")
    return f"{request.getfixturevalue('s3')}/some/place"
