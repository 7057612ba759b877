"""Storage by URI: atomic writes, creation of a file only once, and errors in one line."""

import io
import os
import pickle
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.storage.local_folder import LocalFolder, checked_key
from pipeline.storage.object_store import open_storage

PIPE = subprocess.PIPE
SEGMENTS = st.text(min_size=1, max_size=8).filter(lambda text: "/" not in text and "\0" not in text)


@pytest.fixture
def storage(place):
    return open_storage(place)


def start(code, *words, **options):
    """Start a Python process that runs ``code`` with arguments."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, text=True, **options)


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
    """Large files are uploaded in several parts."""
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


def test_what_is_not_there_cannot_be_opened(storage):
    with pytest.raises(InputError, match="must exist to be read"):
        storage.open("gates/x.parquet")


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
import sys, time
from pipeline.storage.object_store import open_storage
storage = open_storage(sys.argv[1])
time.sleep(max(0.0, float(sys.argv[3]) - time.time()))
print(*(storage.create(f"race/{n:03d}", sys.argv[2].encode()) for n in range(60)))
"""


def test_of_two_processes_one_creates(storage, place):
    begin = time.time() + 2.0
    racers = [start(CREATES, place, name, begin, stdout=PIPE) for name in ("one", "other")]
    wins = [racer.communicate(timeout=120)[0].split() for racer in racers]
    for number, (one, other) in enumerate(zip(*wins, strict=True)):
        assert {one, other} == {"True", "False"}
        winner = b"one" if one == "True" else b"other"
        assert storage.read(f"race/{number:03d}") == winner
    assert len(storage.sizes("race")) == 60


WRITES = """
import sys
from pathlib import Path
from pipeline.storage.object_store import open_storage
open_storage(sys.argv[1]).write("gates/x.parquet", Path(sys.argv[2]))
"""


def test_a_killed_write_is_invisible_and_swept(tmp_path):
    """The writer is killed while it reads from a pipe that brings no more bytes."""
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
    assert storage.read("gates/x.parquet") is None
    assert storage.sizes("gates") == {}
    (tmp_path / "place" / "gates" / "_notes.txt").write_text("mine")
    storage.delete_partial("gates")
    assert [path.name for path in (tmp_path / "place" / "gates").iterdir()] == ["_notes.txt"]


def test_a_killed_upload_is_invisible(s3, s3_server, tmp_path):
    """The writer is killed while it waits for a server that answers to none of its parts."""
    source = tmp_path / "source"
    source.write_bytes(bytes(40 << 20))
    writer = start(WRITES, f"{s3}/held", source)
    deadline = time.monotonic() + 60
    while not uploads(s3, s3_server):
        assert writer.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert uploads(s3, s3_server) == 1
    storage = open_storage(f"{s3}/held")
    assert storage.read("gates/x.parquet") is None
    assert storage.sizes("gates") == {}
    assert storage.create("gates/x.parquet", b"again")


def uploads(bucket, server):
    """Return the number of uploads to a bucket that were begun and not completed."""
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
        root = Path("/folder/of/all")
        assert Path(os.path.normpath(root / checked_key(f"{one}/{other}"))).parents[1] == root
