"""Files are compared with their digests before rows are used: once on a machine, by every reader,
and before they are merged."""

import os
import shutil
from dataclasses import replace

import pytest

from pipeline.errors import InputError
from pipeline.storage import local_folder
from pipeline.storage.object_store import open_storage
from pipeline.traces import read_gates, read_trajectories, verified_files
from pipeline.traces.commit import claim_output, write_manifest
from pipeline.traces.compaction import compact
from pipeline.traces.document_digest import with_digest
from pipeline.traces.multi_dataset import open_traces
from pipeline.traces.shards import as_json
from tests.pipeline.little_traces import FACTS, PLAN, commit_all

READERS = {
    "trajectories": read_trajectories,
    "gates": read_gates,
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # A dataset made a moment ago is remembered, too.
    monkeypatch.setattr(local_folder, "RECENT_S", -1.0)
    monkeypatch.setattr(verified_files, "LARGE", 0)
    return tmp_path / "cache"


@pytest.fixture
def storage(place, cache):
    storage = open_storage(place)
    claim_output(storage, PLAN)
    write_manifest(storage, PLAN, commit_all(storage), FACTS)
    return storage


@pytest.fixture
def verified(storage, monkeypatch):
    """Keys of the files that were compared with their digests."""
    keys = []
    real = type(storage).sha256

    def counted(self, key):
        keys.append(key)
        return real(self, key)

    monkeypatch.setattr(type(storage), "sha256", counted)
    return keys


def key_in(storage, table):
    return f"{table}/{min(storage.sizes(table))}"


def flip_last_byte(storage, key):
    """Change the magic number at the end of a file, as an object store or a disk might."""
    data = bytearray(storage.read(key))
    data[-1] ^= 1
    storage.write(key, bytes(data))


def test_each_file_is_verified_once_on_a_machine(storage, verified, capsys):
    open_traces(storage).verify()
    assert len(verified) == len(set(verified)) == 4
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert line.startswith("verify: comparing 4 files (0.0 MB) of ")
    assert line.endswith(" s\n")
    open_traces(storage).verify()
    read_gates(storage)
    read_trajectories(storage)
    assert len(verified) == 4
    assert capsys.readouterr().out == ""


def test_a_reader_verifies_the_table_that_it_reads(storage, verified):
    read_trajectories(storage)
    assert {key.partition("/")[0] for key in verified} == {"trajectories"}


@pytest.mark.parametrize("table", READERS)
def test_a_file_that_changed_after_its_verification_is_refused(storage, table):
    open_traces(storage).verify()
    flip_last_byte(storage, key_in(storage, table))
    with pytest.raises(InputError, match=r"must have the SHA-256.*move it away and run") as refused:
        READERS[table](storage)
    assert "\n" not in str(refused.value)
    assert "elete" not in str(refused.value)


def test_an_opened_dataset_verifies_once_without_a_cache(storage, cache, verified):
    cache.write_text("a file where a folder should be")
    traces = open_traces(storage)
    for _ in range(2):
        assert sum(batch.num_rows for batch in traces.stream_gates()) == traces.manifest["gates"]
    assert len(verified) == 2
    read_gates(storage)
    assert len(verified) == 4


def test_small_tables_leave_nothing_in_the_cache(storage, cache, monkeypatch):
    monkeypatch.setattr(verified_files, "LARGE", 1 << 26)
    read_gates(storage)
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["", "\n\n", "0" * 64, "\xff"])
def test_a_damaged_cache_is_no_harm(storage, cache, verified, damage):
    open_traces(storage).verify()
    for remembered in (cache / "dqar" / "verified-files").iterdir():
        remembered.write_text(damage)
    open_traces(storage).verify()
    assert len(verified) == 8


def test_a_copy_elsewhere_is_verified_for_itself(tmp_path, cache, monkeypatch):
    claim_output(tmp_path / "one", PLAN)
    write_manifest(tmp_path / "one", PLAN, commit_all(tmp_path / "one"), FACTS)
    open_traces(tmp_path / "one").verify()
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    shard = min((tmp_path / "other" / "gates").iterdir())
    about = shard.stat()
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    os.utime(shard, ns=(about.st_atime_ns, about.st_mtime_ns))
    with pytest.raises(InputError, match="must have the SHA-256"):
        read_gates(tmp_path / "other")


def test_a_file_of_this_moment_is_verified_again(tmp_path, cache, monkeypatch):
    """A file system may give two changes of one moment the same time."""
    monkeypatch.setattr(local_folder, "RECENT_S", 3600.0)
    claim_output(tmp_path / "one", PLAN)
    write_manifest(tmp_path / "one", PLAN, commit_all(tmp_path / "one"), FACTS)
    open_traces(tmp_path / "one").verify()
    monkeypatch.setattr(local_folder, "RECENT_S", -1.0)
    found = []
    monkeypatch.setattr(
        type(open_storage(tmp_path)), "sha256", lambda self, key: found.append(key) or "0" * 64
    )
    with pytest.raises(InputError, match="must have the SHA-256"):
        open_traces(tmp_path / "one").verify()
    assert len(found) == 4


@pytest.mark.parametrize("table", READERS)
def test_damage_of_one_of_two_collections_is_refused(storage, tmp_path, table):
    plan = replace(PLAN, seed=1)
    second = open_storage(tmp_path / "second")
    claim_output(second, plan)
    write_manifest(second, plan, commit_all(second, plan), FACTS)
    both = (storage, second)
    open_traces(both).verify()
    flip_last_byte(second, key_in(second, table))
    with pytest.raises(InputError, match=r"second/.* must have the SHA-256"):
        READERS[table](both)
    with pytest.raises(InputError, match=r"second/.* must have the SHA-256"):
        open_traces(both).verify()


@pytest.mark.parametrize("table", READERS)
def test_damage_is_not_merged(storage, table):
    """A merged file has a new digest, which would hide the damage of what was merged."""
    manifest = open_traces(storage).manifest
    flip_last_byte(storage, key_in(storage, table))
    with pytest.raises(InputError, match="must have the SHA-256"):
        compact(storage, manifest, 1e9)


def test_a_manifest_of_half_the_units_is_refused(storage):
    """The rest is whole: rows, sums and digests are those of the units that are left."""
    first = next(PLAN.units())
    receipts = {first.unit_id: open_traces(storage).manifest["units"][0]}
    write_manifest(storage, PLAN, receipts, FACTS)
    with pytest.raises(InputError, match=r"the 2 units of its plan, in order\. Got 1 units"):
        open_traces(storage)


@pytest.mark.parametrize("name", ["num_layers", "site_flops", "document_digest"])
def test_a_changed_or_missing_field_of_a_manifest_is_refused(storage, name):
    manifest = open_traces(storage).manifest
    changed = {"num_layers": 3, "site_flops": {"attn": 2.0}, "document_digest": "0" * 64}[name]
    left = {key: value for key, value in manifest.items() if key != "document_digest"}
    for edited in (manifest | {name: changed}, left | {"num_layers": 3}):
        storage.write("_manifest/v000001.json", as_json(edited))
        with pytest.raises(InputError, match=r"v000001\.json: document_digest must be"):
            open_traces(storage)
    storage.write("_manifest/v000001.json", as_json(with_digest(manifest | {"num_layers": 3})))
    assert open_traces(storage).manifest["num_layers"] == 3
