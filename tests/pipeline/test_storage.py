"""Storage by URI: files that appear whole, once where that is asked for, and errors in one line."""

import http.server
import io
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.door import Refusal
from pipeline.local_folder import LocalFolder, checked_key
from pipeline.storage import Bucket, open_storage

SEGMENTS = st.text(min_size=1, max_size=8).filter(lambda text: "/" not in text and "\0" not in text)


@pytest.fixture
def storage(place):
    return open_storage(place)


def start(code, *words, **options):
    """A Python process of this tree."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_what_is_written_is_read(storage):
    assert storage.read("a/b.json") is None
    assert storage.size("a/b.json") is None
    storage.write("a/b.json", b"one")
    storage.write("a/b.json", b"three")
    assert storage.read("a/b.json") == b"three"
    assert storage.size("a/b.json") == 5
    storage.delete("a/b.json")
    storage.delete("a/b.json")
    assert storage.read("a/b.json") is None


def test_a_file_is_written_whatever_its_size(storage, tmp_path):
    """Large ones go up in several parts."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 20) * 11)
    storage.write("large", source)
    storage.write("empty", b"")
    assert storage.read("large") == source.read_bytes()
    assert storage.read("empty") == b""


def test_any_range_is_read(storage):
    data = bytes(range(256)) * 8
    storage.write("x/data", data)
    with storage.open("x/data") as file:
        assert file.seek(-6, io.SEEK_END) == len(data) - 6
        assert bytes(file.read(100)) == data[-6:]
        assert bytes(file.read(1)) == b""
        assert file.seek(300) == file.tell() == 300
        assert bytes(file.read(7)) == data[300:307]
        file.seek(3, io.SEEK_CUR)
        assert bytes(file.read()) == data[310:]


def test_what_was_created_is_not_replaced(storage):
    assert storage.create("x", b"first")
    assert not storage.create("x", b"second")
    assert storage.read("x") == b"first"
    storage.write("x", b"third")
    assert not storage.create("x", b"fourth")


def test_names_are_those_right_below_a_folder(storage):
    for key in ("gates/b", "gates/a", "gates/_hidden", "gates/below/c", "gatesmore/d", "e"):
        storage.write(key, key.encode())
    assert list(storage.sizes("gates").items()) == [("a", 7), ("b", 7)]
    assert storage.sizes("nowhere") == {}


def test_underscores_do_not_fill_a_place(storage):
    assert storage.is_empty()
    storage.write("_receipts/x", b"")
    assert storage.is_empty()
    storage.write("mine/x", b"")
    assert not storage.is_empty()


def test_storage_travels_to_workers(storage):
    storage.write("x", b"1")
    again = pickle.loads(pickle.dumps(storage))
    assert again == storage
    assert again.read("x") == b"1"
    assert open_storage(storage) is storage


CREATES = """
import sys
from pipeline.storage import open_storage
storage = open_storage(sys.argv[1])
sys.stdin.readline()
print(*(storage.create(f"race/{n:03d}", sys.argv[2].encode()) for n in range(60)))
"""


def test_of_two_processes_one_creates(storage, place):
    racers = [start(CREATES, place, name, stdin=subprocess.PIPE) for name in ("one", "other")]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    wins = [racer.communicate(timeout=120)[0].split() for racer in racers]
    for number, (one, other) in enumerate(zip(*wins, strict=True)):
        assert {one, other} == {"True", "False"}
        winner = b"one" if one == "True" else b"other"
        assert storage.read(f"race/{number:03d}") == winner
    assert len(storage.sizes("race")) == 60


WRITES = """
import sys
from pathlib import Path
from pipeline.storage import open_storage
open_storage(sys.argv[1]).write("gates/x.parquet", Path(sys.argv[2]))
"""


def test_a_killed_write_is_invisible_and_swept(tmp_path):
    """The writer waits in the middle, for a pipe that brings no more."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    storage = LocalFolder(path=tmp_path / "place")
    writer = start(WRITES, tmp_path / "place", pipe)
    with pipe.open("wb", buffering=0) as source:
        source.write(bytes(1 << 20))
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in (tmp_path / "place").rglob("_*")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        writer.kill()
        writer.wait()
    writer.stdout.close()
    assert storage.read("gates/x.parquet") is None
    assert storage.sizes("gates") == {}
    (tmp_path / "place" / "gates" / "_notes.txt").write_text("mine")
    storage.delete_partial("gates")
    assert [path.name for path in (tmp_path / "place" / "gates").iterdir()] == ["_notes.txt"]


def test_a_killed_upload_is_invisible(s3, s3_server, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(200 << 20))
    writer = start(WRITES, f"{s3}/place", source)
    deadline = time.monotonic() + 60
    while not uploads(s3, s3_server):
        assert writer.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert uploads(s3, s3_server) == 1
    storage = open_storage(f"{s3}/place")
    assert storage.read("gates/x.parquet") is None
    assert storage.sizes("gates") == {}
    assert storage.create("gates/x.parquet", b"again")


def uploads(bucket, server):
    """Uploads that were begun and not completed."""
    url = f"{server}/{bucket.removeprefix('s3://')}?uploads"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().count(b"<UploadId>")


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("file:///a%20b/c", "file:///a%20b/c"),
        ("/a b", "file:///a%20b"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket", "s3://bucket"),
        ("gs://my_bucket/a", "gs://my_bucket/a"),
    ],
)
def test_uris_of_each_kind(uri, address):
    assert open_storage(uri).address == address


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "a\0b",
        "s3://",
        "s3:/bucket/x",
        "s3://Bucket/x",
        "s3://bucket/../x",
        "s3://bucket/a//b",
        "s3://key:hidden@bucket/x",
        "az://bucket/x",
        "https://host/x",
        "file://host/x",
        "file://",
    ],
)
def test_other_uris_are_refused(uri):
    with pytest.raises(Refusal, match="must be") as refused:
        open_storage(uri)
    assert "hidden" not in str(refused.value)


@given(SEGMENTS, SEGMENTS)
@example("..", "x")
@example(".", "x")
@example("x", "..")
def test_keys_name_what_lies_below(one, other):
    for key in (
        f"/{one}",
        f"{one}/",
        f"{one}//{other}",
        f"../{one}",
        f"{one}/../{other}",
        f"{one}\0",
    ):
        with pytest.raises(ValueError, match="names joined by slashes"):
            checked_key(key)
    if {one, other}.isdisjoint({".", ".."}):
        root = Path("/root/of/all")
        assert Path(os.path.normpath(root / checked_key(f"{one}/{other}"))).parents[1] == root


ACTS = {
    "write": lambda storage: storage.write("x/y", b""),
    "create": lambda storage: storage.create("x/y", b""),
    "read": lambda storage: storage.read("x"),
    "sizes": lambda storage: storage.sizes("x"),
    "is_empty": lambda storage: storage.is_empty(),
    "refuse_unwritable": lambda storage: storage.refuse_unwritable(),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_file_in_the_way_is_refused(tmp_path, act):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Refusal, match=r"which is a file|in the way"):
            act(open_storage(place))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_bucket_that_is_not_there_is_refused(s3, act):
    with pytest.raises(Refusal, match=r"says NoSuchBucket\. Create the bucket"):
        act(open_storage(f"{s3}-nowhere/x"))


class Answers(http.server.BaseHTTPRequestHandler):
    """Always the same answer."""

    status, body, delay_s = 403, b"", 0.0

    def do_GET(self):
        time.sleep(self.delay_s)
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_):
        pass


@pytest.fixture
def answering(monkeypatch):
    """Starts a server that answers as told; returns storage that it keeps."""
    servers = []

    def begin(name, **answer):
        handler = type("Handler", (Answers,), answer)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(variable, "AKIAHIDDEN")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("DQAR_STORAGE_TIMEOUT_S", "1")
        return Bucket(uri=f"s3://{name}/x")

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
def test_wrong_credentials_are_refused_without_showing_them(answering, code):
    body = f"<Error><Code>{code}</Code><AWSAccessKeyId>AKIAHIDDEN</AWSAccessKeyId></Error>"
    storage = answering(f"wrong-{code.lower()}", status=403, body=body.encode())
    with pytest.raises(Refusal, match=rf"says {code}\. \w") as refused:
        storage.read("x")
    assert "AKIA" not in str(refused.value)


def test_a_server_that_fails_or_hangs_is_given_up(answering):
    for storage in (answering("failing", status=500), answering("hanging", delay_s=20.0)):
        with pytest.raises(Refusal, match=r"Storage must answer.*AWS_ENDPOINT_URL"):
            storage.read("x")


def test_nobody_listening_and_http_unasked_for_are_refused(monkeypatch, answering):
    storage = answering("plain")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "")
    with pytest.raises(Refusal, match=r"AWS_ALLOW_HTTP=true for http"):
        storage.read("x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    with pytest.raises(Refusal, match="Storage must answer"):
        Bucket(uri="s3://nobody/x").read("x")


def test_refusals_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal) as refused:
        open_storage(tmp_path / "file").write("x", b"")
    assert re.fullmatch(r"[^\n]+\.", str(refused.value))
