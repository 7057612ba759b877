"""Commit of a unit: at no moment does a receipt name shards that are missing or of another unit."""

from dataclasses import replace

import pytest

from pipeline.errors import InputError
from pipeline.storage.object_store import open_storage
from pipeline.traces import commit as commits
from pipeline.traces import read_trajectories
from pipeline.traces.commit import claim_output, committed_receipts, write_manifest
from pipeline.traces.compaction import finalize
from pipeline.traces.lease import acquire_lease
from pipeline.traces.shards import find_receipt, receipt_key
from pipeline.traces.tables import commit_unit
from tests.pipeline.little_traces import FACTS, PLAN, columns_of, commit_all

EVEN = replace(PLAN, num_trajectories=12)
"""A plan of two units of the same size."""
FIRST, SECOND = EVEN.units()


@pytest.fixture
def storage(place):
    return open_storage(place)


@pytest.fixture
def after_each_change(storage, monkeypatch):
    """Call a function after each file that is written, created or deleted in the storage."""

    def watch(look):
        for name in ("write", "create", "delete"):
            monkeypatch.setattr(type(storage), name, followed_by(look, storage, name))

    return watch


def followed_by(look, storage, name):
    method = getattr(type(storage), name)

    def act(self, *arguments):
        result = method(self, *arguments)
        look()
        return result

    return act


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_receipt_never_names_a_shard_that_is_missing(storage, after_each_change, attempts):
    """A worker killed after any of its writes leaves no receipt, or a receipt with whole shards."""
    seen = []

    def look():
        has_receipt = storage.read(receipt_key(FIRST)) is not None
        assert not has_receipt or find_receipt(storage, FIRST) is not None
        seen.append(has_receipt)

    after_each_change(look)
    for psnr in range(attempts):
        trajectories, gates = columns_of(FIRST, EVEN)
        commit_unit(storage, FIRST, trajectories | {"psnr": 30.0 + psnr}, gates, {})
    assert seen[:3] == [False, False, True]


def test_a_receipt_of_another_unit_is_not_believed(storage):
    """Both units have as many rows; only the unit's name in the receipt differs."""
    claim_output(storage, EVEN)
    receipts = commit_all(storage, EVEN)
    storage.write(receipt_key(SECOND), storage.read(receipt_key(FIRST)))
    assert find_receipt(storage, SECOND) is None
    assert committed_receipts(storage, EVEN) == {FIRST.unit_id: receipts[FIRST.unit_id]}


def test_a_manifest_does_not_depend_on_the_order_in_which_units_end(storage):
    receipts = commit_all(storage, EVEN)
    manifest = write_manifest(storage, EVEN, receipts, FACTS)
    backwards = dict(reversed(receipts.items()))
    assert write_manifest(storage, EVEN, backwards, FACTS) == manifest
    assert list(storage.sizes("_manifest")) == ["v000001.json"]
    assert [unit["index"] for unit in manifest["units"]] == [0, 1]


def test_a_unit_that_was_done_again_leaves_its_merged_part(storage):
    """The merged part is sound and holds the unit's rows of the earlier attempt."""
    claim_output(storage, EVEN)
    manifest = write_manifest(storage, EVEN, commit_all(storage, EVEN), FACTS)
    with acquire_lease(storage) as lease:
        assert len(finalize(storage, manifest, 1.0, lease)["parts"]) == 1
    receipts = commit_all(storage, EVEN)
    storage.delete(receipt_key(FIRST))
    trajectories, gates = columns_of(FIRST, EVEN)
    again = commit_unit(storage, FIRST, trajectories | {"psnr": 31.0}, gates, {"seconds": 1})
    manifest = write_manifest(storage, EVEN, receipts | {FIRST.unit_id: again}, FACTS)
    assert [part["units"] for part in manifest["parts"]] == [[0], [1]]
    assert read_trajectories(storage)["psnr"].to_pylist() == [31.0] * 6 + [30.0] * 6


@pytest.mark.parametrize("same", [True, False], ids=["same plan", "other plan"])
def test_a_folder_that_was_claimed_meanwhile_is_of_that_plan(storage, monkeypatch, same):
    """Another driver claims the folder after this driver found it empty."""
    theirs = PLAN if same else EVEN
    real = commits.refuse_other_contents

    def overtaken(found):
        real(found)
        monkeypatch.setattr(commits, "refuse_other_contents", real)
        claim_output(storage, theirs)

    monkeypatch.setattr(commits, "refuse_other_contents", overtaken)
    if same:
        claim_output(storage, PLAN)
    else:
        with pytest.raises(InputError, match=r"num_trajectories 12 instead of 10"):
            claim_output(storage, PLAN)
    claim_output(storage, theirs)
