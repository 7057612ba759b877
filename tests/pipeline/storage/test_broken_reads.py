"""Answers that break off are read on from there; a dead store is named within seconds."""

import http.server
import re
import socket
import threading
import time
from typing import ClassVar

import pytest

from pipeline.errors import InputError, StorageError
from pipeline.storage.object_store import Bucket

DATA = bytes(range(256)) * 40


class Cutting(http.server.BaseHTTPRequestHandler):
    """Handler that ends its first ``cuts`` answers after ``kept`` bytes of what was asked for."""

    cuts, kept, e_tag = 1, 1000, '"one"'
    asked: ClassVar[list[str]]
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        asked = self.headers.get("Range", "")
        self.asked.append(asked)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        start, stop = (int(found[1]), int(found[2]) + 1) if found else (0, len(DATA))
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(DATA)}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", self.e_tag)
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
        self.end_headers()
        is_cut = len(self.asked) <= self.cuts
        self.wfile.write(DATA[start : min(stop, start + self.kept) if is_cut else stop])
        self.close_connection = True

    def log_message(self, format, *_):
        pass


@pytest.fixture
def bucket(monkeypatch, request):
    """Return storage on a server that cuts so many answers, and the ranges it was asked for."""
    servers = []

    def begin(cuts, kept=1000):
        handler = type("Handler", (Cutting,), {"cuts": cuts, "kept": kept, "asked": []})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        reach(monkeypatch, server.server_port)
        return Bucket(uri=f"s3://cut{len(servers)}-{server.server_port}/x"), handler.asked

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


def reach(monkeypatch, port):
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("cuts", [1, 6])
def test_an_answer_that_breaks_off_is_read_on(bucket, cuts):
    storage, asked = bucket(cuts)
    assert storage.read("x") == DATA
    assert asked[:2] == ["", "bytes=1000-10239"]
    assert len(asked) == cuts + 1


def test_a_range_that_breaks_off_is_read_on(bucket):
    storage, asked = bucket(1)
    assert storage.read_range("x", 50, 5000) == DATA[50:5000]
    assert asked == ["bytes=50-4999", "bytes=1050-4999"]


@pytest.mark.parametrize("read", [lambda b: b.read("x"), lambda b: b.read_range("x", 0, 10240)])
def test_a_connection_that_always_breaks_is_named(bucket, read, monkeypatch):
    monkeypatch.setenv("DQAR_STORAGE_TIMEOUT_S", "2")
    storage, asked = bucket(10**9, kept=10)
    with pytest.raises(StorageError, match=r"broke after \d+0 of 10240 bytes\. ") as refused:
        read(storage)
    assert "credentials" not in str(refused.value)
    assert 1 < len(asked) < 40


@pytest.fixture
def silent():
    """Port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


ACTS = {
    "read": lambda storage: storage.read("x"),
    "is_empty": lambda storage: storage.is_empty(),
    "write": lambda storage: storage.write("x", b"1"),
}


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_silent_store_is_given_up_within_30_s(monkeypatch, silent, act):
    reach(monkeypatch, silent)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"did not answer in time .*AWS_ENDPOINT_URL"):
        act(Bucket(uri=f"s3://silent-{silent}/x"))
    assert time.monotonic() - started < 30


@pytest.mark.timeout(60)
def test_a_store_that_is_gone_is_named_and_credentials_are_not_blamed(monkeypatch, silent):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    endpoints = {
        f"http://127.0.0.1:{port}": "its host refused the connection",
        "http://no-such-host.invalid": "the name of its host is not known to DNS",
    }
    for number, (endpoint, reason) in enumerate(endpoints.items()):
        reach(monkeypatch, port)
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("DQAR_STORAGE_TIMEOUT_S", "3")
        for act in ACTS.values():
            with pytest.raises(StorageError, match=reason) as refused:
                act(Bucket(uri=f"s3://gone-{number}-{port}/x"))
            assert "credentials" not in str(refused.value)
