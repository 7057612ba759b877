"""Health check of a Ray head: dead ports, servers that stay silent, servers that are no head."""

import http.server
import socket
import threading
import time

import pytest

from pipeline.cluster import head
from pipeline.cluster.head import HeadLostError, HeadWatch, refuse_silent_head, why_silent
from pipeline.errors import InputError


@pytest.fixture
def silent():
    """Address of a server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def dead():
    """Address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def web():
    """Address of an HTTP server, as a job server is one."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("kind", "said"),
    [("dead", "Connection refused"), ("silent", "no answer in time"), ("web", "not as a Ray head")],
)
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_head_that_does_not_answer_is_refused_in_one_line(
    request, monkeypatch, kind, said, scheme
):
    monkeypatch.setattr(head, "ANSWER_S", 0.5)
    address = scheme + request.getfixturevalue(kind)
    monkeypatch.setenv("RAY_ADDRESS", address)
    started = time.monotonic()
    with pytest.raises(InputError, match=f"RAY_ADDRESS must be HOST:PORT.*{said}") as refusal:
        refuse_silent_head()
    assert address in str(refusal.value)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("address", ["", "local", "auto", "http://127.0.0.1:1"])
def test_what_is_no_address_of_a_head_is_left_to_ray(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    refuse_silent_head()


def test_a_head_is_lost_once_it_is_silent_for_long_enough(monkeypatch, dead):
    monkeypatch.setattr(head, "SILENT_S", 0.3)
    watch = HeadWatch(dead)
    with pytest.raises(HeadLostError, match=r"must answer during the work.*same command again"):
        watch.check()
    assert watch.is_lost


def test_tls_is_checked_by_a_connection_alone(monkeypatch, dead, silent):
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert "refused" in (why_silent(dead, 0.5) or "")
    assert why_silent(silent, 0.5) is None
