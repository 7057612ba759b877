"""Errors of a file system are named by what happened, and no fix deletes data."""

import errno
import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import IncompleteError, StorageError
from pipeline.storage.file_errors import refusal_of
from pipeline.storage.local_folder import LocalFolder
from pipeline.storage.object_store import open_storage
from pipeline.storage.unfinished_folder import unfinished, work_begun
from pipeline.traces import read_gates
from pipeline.traces.commit import claim_output, committed_receipts, write_manifest
from tests.pipeline.little_traces import FACTS, PLAN, commit_all

WORDS = {
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "its file system is read-only",
    errno.EIO: "failed with an input/output error",
    errno.ESTALE: "stale file handle",
    errno.EACCES: "this user may not read or write it",
}


@pytest.mark.parametrize("number", WORDS, ids=errno.errorcode.get)
def test_the_reason_is_named(number):
    said = str(refusal_of(OSError(number, os.strerror(number)), Path("/somewhere")))
    assert f"Got an error at /somewhere: {WORDS[number]}" in said or WORDS[number] in said
    assert "run the command again, which keeps what is done" in said
    assert not any(word in said for word in ("elete", "emove", "credentials"))


@pytest.fixture
def public():
    """A folder that other users may read: pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def as_somebody():
    """Run the block without the rights of root, if the tests are run by root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_shard_that_may_not_be_read_is_no_damaged_one(public):
    root = public / "traces"
    claim_output(root, PLAN)
    write_manifest(root, PLAN, commit_all(root), FACTS)
    shard = min((root / "gates").iterdir())
    receipt = min((root / "_receipts").iterdir())
    for path, act in ((shard, read_gates), (receipt, lambda root: committed_receipts(root, PLAN))):
        path.chmod(0)
        with as_somebody(), pytest.raises(StorageError) as refused:
            act(root)
        path.chmod(0o644)
        said = str(refused.value)
        assert f"Got an error at {path}: this user may not read or write it. Give" in said
        assert not any(word in said for word in ("elete", "ove it", "damaged"))
    assert len(committed_receipts(root, PLAN)) == 2


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs the rights of root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_named_and_leaves_no_part_of_a_file(full_disk):
    storage = LocalFolder(path=full_disk)
    storage.write("small", b"1")
    with pytest.raises(StorageError, match=r"its disk is full\. Free space"):
        storage.write("large", bytes(1 << 20))
    with pytest.raises(StorageError, match="its disk is full"):
        storage.create("large", bytes(1 << 20))
    assert os.listdir(full_disk) == ["small"]


WRITERS = {
    "storage": lambda disk: open_storage(disk).write("x", bytes(1 << 20)),
    "a file": lambda disk: (disk / "x").write_bytes(bytes(1 << 20)),
    "weights": lambda disk: save_file({"x": torch.zeros(1 << 20)}, disk / "x.safetensors"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_disk_that_fills_during_the_work_leaves_work_undone(full_disk, write):
    with (
        pytest.raises(IncompleteError, match=r"its disk is full\. Free space") as ended,
        unfinished(full_disk, "policy.json"),
    ):
        write(full_disk)
    assert "\n" not in str(ended.value)


def test_other_errors_pass_unchanged(tmp_path):
    for error in (ConnectionRefusedError(errno.ECONNREFUSED, "MLflow"), KeyError("x")):
        with pytest.raises(type(error)), work_begun(tmp_path):
            raise error
