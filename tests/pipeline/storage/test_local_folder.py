"""Durability of a folder's files: what is renamed is on disk before, and its new name after."""

import os

import pytest

from pipeline.storage.local_folder import LocalFolder


@pytest.fixture
def events(monkeypatch):
    """Syncs and renames in their order, with the path of the file or folder."""
    found = []
    fsync = os.fsync

    def sync(descriptor):
        found.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def recorded(name):
        rename = getattr(os, name)

        def act(source, target):
            found.append((name, str(source), str(target)))
            rename(source, target)

        return act

    monkeypatch.setattr(os, "fsync", sync)
    for name in ("replace", "link"):
        monkeypatch.setattr(os, name, recorded(name))
    return found


@pytest.mark.parametrize(("act", "rename"), [("write", "replace"), ("create", "link")])
def test_a_file_is_synced_then_renamed_and_its_folder_is_synced_last(tmp_path, events, act, rename):
    (tmp_path / "gates").mkdir()
    getattr(LocalFolder(path=tmp_path), act)("gates/x", b"data")
    (synced, temporary), renamed, folder = events
    assert synced == "sync"
    assert renamed == (rename, temporary, str(tmp_path / "gates" / "x"))
    assert folder == ("sync", str(tmp_path / "gates"))


def test_a_file_that_was_copied_is_synced_too(tmp_path, events):
    source = tmp_path / "source"
    source.write_bytes(b"data")
    LocalFolder(path=tmp_path).write("x", source)
    assert [event[0] for event in events] == ["sync", "replace", "sync"]
    assert events[0][1] == events[1][1]


def test_each_new_folder_is_synced_into_the_folder_that_names_it(tmp_path, events):
    """Without it a power cut could take the new folder, and all files in it."""
    LocalFolder(path=tmp_path / "a" / "b").write("c/x", b"data")
    synced = [event[1] for event in events if event[0] == "sync"]
    folders = [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert synced[:3] == [str(folder) for folder in folders]
    assert synced[-1] == str(tmp_path / "a" / "b" / "c")


@pytest.mark.parametrize("data", [b"first", b"second"])
def test_a_created_file_has_one_name(tmp_path, data):
    storage = LocalFolder(path=tmp_path)
    assert storage.create("x", b"first")
    assert not storage.create("x", data)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_copy_that_fails_leaves_no_file(tmp_path):
    storage = LocalFolder(path=tmp_path / "place")
    with pytest.raises(ValueError, match="no such file"):
        storage.write("x", tmp_path / "missing")
    assert list((tmp_path / "place").iterdir()) == []
