"""Compaction: fewer files, the same rows in the same order, and nothing lost if it is killed."""

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.storage.object_store import open_storage
from pipeline.traces import read_gates, read_trajectories, stream_gates
from pipeline.traces.commit import claim_output, committed_receipts, write_manifest
from pipeline.traces.compaction import (
    MEGABYTE,
    compact,
    finalize,
    group_parts,
    orphans,
    vacuum,
)
from pipeline.traces.lease import acquire_lease
from pipeline.traces.multi_dataset import open_traces
from pipeline.traces.tables import commit_unit
from tests.pipeline.little_traces import FACTS, PLAN, columns_of, commit_all

MANY = replace(PLAN, num_trajectories=33)
UNITS = list(MANY.units())
EVERYTHING = 1.0


@pytest.fixture
def collected(place):
    """Storage with a finished collection of six units, not compacted."""
    storage = open_storage(place)
    claim_output(storage, MANY)
    write_manifest(storage, MANY, commit_all(storage, MANY), FACTS)
    return storage


def files(storage):
    return {
        f"{table}/{name}" for table in ("gates", "trajectories") for name in storage.sizes(table)
    }


def finish(storage, compact_mb=EVERYTHING):
    """Publish and finalize the collection, as a driver does once all units are done."""
    receipts = committed_receipts(storage, MANY)
    assert len(receipts) == len(UNITS)
    with acquire_lease(storage) as lease:
        manifest = write_manifest(storage, MANY, receipts, FACTS)
        return finalize(storage, manifest, compact_mb, lease)


def rows_of(storage):
    return read_trajectories(storage), read_gates(storage)


def test_rows_digests_and_order_are_kept(collected):
    before, rows = open_traces(collected).manifest, rows_of(collected)
    after = finish(collected)
    assert len(after["parts"]) == 1
    assert len(files(collected)) == 2
    for found, wanted in zip(rows_of(collected), rows, strict=True):
        assert found.equals(wanted)
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {"parts", "document_digest"}
    assert sum(batch.num_rows for batch in stream_gates(collected)) == after["gates"]


def test_doing_it_again_changes_nothing(collected):
    first = finish(collected)
    names, versions = files(collected), collected.sizes("_manifest")
    assert finish(collected) == first
    assert files(collected) == names
    assert collected.sizes("_manifest") == versions


def test_zero_leaves_every_shard(collected):
    names = files(collected)
    assert len(finish(collected, 0.0)["parts"]) == len(UNITS)
    assert files(collected) == names
    assert list(collected.sizes("_manifest")) == ["v000001.json"]


def test_files_have_about_the_size_asked_for(collected):
    manifest = open_traces(collected).manifest
    size = manifest["parts"][0]["files"]["gates"]["bytes"]
    after = finish(collected, 1.5 * size / MEGABYTE)
    assert [part["units"] for part in after["parts"]] == [[0, 1], [2, 3], [4, 5]]


def test_units_are_done_though_their_own_shards_are_gone(collected):
    finish(collected)
    receipts = committed_receipts(collected, MANY)
    assert list(receipts) == [unit.unit_id for unit in UNITS]


def test_units_of_a_damaged_part_alone_are_collected_again(collected):
    size = open_traces(collected).manifest["parts"][0]["files"]["gates"]["bytes"]
    rows = rows_of(collected)
    finish(collected, 1.5 * size / MEGABYTE)
    damaged = f"gates/{sorted(collected.sizes('gates'))[1]}"
    collected.write(damaged, b"PAR1")
    with pytest.raises(InputError, match=r"must have \d+ bytes\. Got 4.*trajectories again"):
        open_traces(collected)
    receipts = committed_receipts(collected, MANY)
    assert [unit.index for unit in UNITS if unit.unit_id not in receipts] == [2, 3]
    for unit in UNITS[2:4]:
        receipts[unit.unit_id] = commit_unit(collected, unit, *columns_of(unit, MANY), {})
    write_manifest(collected, MANY, receipts, FACTS)
    for found, wanted in zip(rows_of(collected), rows, strict=True):
        assert found.equals(wanted)
    assert [part["units"] for part in finish(collected)["parts"]] == [[0, 1], [2, 3], [4, 5]]


class Killed(BaseException):
    """Death of the driver at a request to its storage."""


@pytest.mark.parametrize("last", range(1, 18))
def test_a_driver_killed_at_any_write_loses_nothing(tmp_path, monkeypatch, last):
    storage = open_storage(tmp_path / "place")
    claim_output(storage, MANY)
    write_manifest(storage, MANY, commit_all(storage, MANY), FACTS)
    rows = rows_of(storage)
    count = itertools.count(1)

    def mortal(method):
        def act(*arguments):
            if next(count) >= last:
                raise Killed
            return method(*arguments)

        return act

    with monkeypatch.context() as patch:
        for name in ("write", "create", "delete"):
            patch.setattr(type(storage), name, mortal(getattr(type(storage), name)))
        with pytest.raises(Killed):
            finish(storage)
        for found, wanted in zip(rows_of(storage), rows, strict=True):
            assert found.equals(wanted)
    free = {"state": "released"}
    for name in storage.sizes("_lease"):
        document = json.loads(storage.read(f"_lease/{name}") or b"") | free
        storage.write(f"_lease/{name}", json.dumps(document).encode())
    finish(storage)
    for found, wanted in zip(rows_of(storage), rows, strict=True):
        assert found.equals(wanted)
    assert len(files(storage)) == 2


def test_orphans_of_these_units_alone_are_deleted(collected):
    unit = UNITS[0].unit_id
    stranger = "f" * 16
    ours = {f"gates/{unit}-{'0' * 16}.parquet", f"gates/merged-000000-000001-{'0' * 16}.parquet"}
    others = {
        f"gates/{stranger}-{'0' * 16}.parquet",
        f"gates/{unit}.parquet.bak",
        "gates/notes.txt",
        "trajectories/foreign.parquet",
        f"elsewhere/{unit}.parquet",
    }
    for key in ours | others:
        collected.write(key, b"x")
    manifest = open_traces(collected).manifest
    rows = rows_of(collected)
    assert set(orphans(collected, manifest)) == ours
    vacuum(collected, manifest)
    assert all(collected.read(key) is None for key in ours)
    assert all(collected.read(key) == b"x" for key in others)
    for found, wanted in zip(rows_of(collected), rows, strict=True):
        assert found.equals(wanted)


def test_who_was_taken_over_deletes_and_publishes_nothing(collected):
    names = files(collected)
    manifest = open_traces(collected).manifest
    with acquire_lease(collected) as lease:
        collected.write("_lease/000002.json", b"{}")
        with pytest.raises(InputError, match="must have one driver"):
            finalize(collected, manifest, EVERYTHING, lease)
    assert files(collected) == names
    assert list(collected.sizes("_manifest")) == ["v000001.json"]


@pytest.mark.parametrize(
    ("method", "file", "versions"),
    [("write", "gates/merged-", 1), ("create", "_manifest/v000002.json", 2)],
)
def test_who_is_taken_over_meanwhile_stops(collected, monkeypatch, method, file, versions):
    """Another driver takes over once the merged shards are written, or the manifest published."""
    names, manifest = files(collected), open_traces(collected).manifest
    real = getattr(type(collected), method)

    def overtaken(self, key, data):
        done = real(self, key, data)
        if key.startswith(file):
            collected.write("_lease/000002.json", b"{}")
        return done

    with acquire_lease(collected) as lease:
        monkeypatch.setattr(type(collected), method, overtaken)
        with pytest.raises(InputError, match="must have one driver"):
            finalize(collected, manifest, EVERYTHING, lease)
    assert names < files(collected)
    assert len(collected.sizes("_manifest")) == versions


def test_a_manifest_names_no_shard_that_is_gone(collected):
    receipts = committed_receipts(collected, MANY)
    collected.delete(f"gates/{sorted(collected.sizes('gates'))[0]}")
    with pytest.raises(InputError, match="must be in"):
        write_manifest(collected, MANY, receipts, FACTS | {"num_layers": 3})


def test_lost_rows_are_a_bug_and_publish_nothing(collected):
    manifest = open_traces(collected).manifest
    manifest["units"][0]["gates"] += 1
    with pytest.raises(RuntimeError, match="must keep"):
        compact(collected, manifest, MEGABYTE)


def part(sizes, start):
    units = list(range(start, start + len(sizes)))
    return {"units": units, "files": {"gates": {"bytes": sum(sizes)}}}


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=3), max_size=20), st.floats(0, 99)
)
def test_groups_keep_the_order_and_stay_small(sizes, target):
    starts = itertools.accumulate([len(one) for one in sizes], initial=0)
    parts = [part(one, start) for one, start in zip(sizes, starts, strict=False)]
    groups = group_parts(parts, target)
    assert [one for group in groups for one in group] == parts
    for group in groups:
        assert len(group) == 1 or all(len(one["units"]) == 1 for one in group)
        assert sum(one["files"]["gates"]["bytes"] for one in group[:-1]) < max(target, 1.0)
