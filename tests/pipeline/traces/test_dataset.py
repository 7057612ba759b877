"""Commit protocol on folders and object stores: the first attempt at a unit counts, and each
manifest version is published once."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dqar.records import FEATURES
from pipeline.errors import InputError
from pipeline.storage.object_store import Bucket, open_storage
from pipeline.traces import manifest as manifests
from pipeline.traces import read_gates, read_trajectories, verified_files
from pipeline.traces.commit import claim_output, committed_receipts, write_manifest
from pipeline.traces.document_digest import with_digest
from pipeline.traces.multi_dataset import open_traces
from pipeline.traces.shards import as_json, find_receipt
from pipeline.traces.tables import commit_unit
from tests.pipeline.little_traces import FACTS, PLAN, columns_of, commit_all

FIRST, SECOND = PLAN.units()


@pytest.fixture
def storage(place):
    storage = open_storage(place)
    claim_output(storage, PLAN)
    return storage


def attempt(storage, unit, psnr=30.0):
    trajectories, gates = columns_of(unit)
    return commit_unit(storage, unit, trajectories | {"psnr": psnr}, gates, {"psnr": psnr})


def test_everything_comes_back_from_anywhere(storage):
    write_manifest(storage, PLAN, commit_all(storage), FACTS)
    assert read_trajectories(storage).num_rows == 10
    reused = [row for row in read_gates(storage).to_pylist() if row["action"] == "reuse"]
    assert reused
    assert read_gates(storage.address, ["step"]).column_names == ["step"]
    assert len(committed_receipts(storage.address, PLAN)) == 2


def test_a_reader_of_one_column_fetches_no_others(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # As a large table, this one is compared with its SHA-256 once, before the reads are counted.
    monkeypatch.setattr(verified_files, "LARGE", 0)
    plan = replace(PLAN, num_trajectories=6000, batch_size=6000)
    storage = open_storage(f"{s3}/wide")
    claim_output(storage, plan)
    (unit,) = plan.units()
    trajectories, gates = columns_of(unit, plan)
    noise = np.random.default_rng(0)
    gates |= {name: noise.random(len(gates["step"])) for name in FEATURES}
    receipt = commit_unit(storage, unit, trajectories, gates, {})
    write_manifest(storage, plan, {unit.unit_id: receipt}, FACTS)
    open_traces(storage).verify()
    fetched = []
    real = Bucket.read_range

    def counted(self, key, start, end):
        fetched.append(end - start)
        return real(self, key, start, end)

    monkeypatch.setattr(Bucket, "read_range", counted)
    assert read_gates(storage, ["step"]).num_rows == receipt["gates"]
    assert 0 < sum(fetched) < receipt["files"]["gates"]["bytes"] / 5


def test_the_first_attempt_counts(storage):
    first = attempt(storage, FIRST)
    assert attempt(storage, FIRST, psnr=31.0) == first
    assert attempt(storage, FIRST) == first
    # The shard of the second attempt has another name, and replaced nothing.
    assert len(storage.sizes("trajectories")) == 2
    assert len(storage.sizes("gates")) == 1
    assert find_receipt(storage, FIRST) == first


@pytest.mark.parametrize("damage", [b"", b"PAR1"])
def test_an_attempt_repairs_a_damaged_shard_or_replaces_its_receipt(storage, damage):
    first = attempt(storage, FIRST)
    for psnr, counts in ((30.0, 30.0), (31.0, 31.0)):
        for table, file in first["files"].items():
            storage.write(f"{table}/{file['name']}", damage)
        assert find_receipt(storage, FIRST) is None
        assert attempt(storage, FIRST, psnr)["psnr"] == counts
        assert (find_receipt(storage, FIRST) or {})["psnr"] == counts


def test_two_plans_cannot_claim_one_place(storage):
    with pytest.raises(InputError, match="or hold the same plan"):
        claim_output(storage, type(PLAN)(**{**fields_of(PLAN), "seed": 3}))
    claim_output(storage, PLAN)


def fields_of(plan):
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


def test_a_version_is_published_once(storage, monkeypatch):
    """Another driver publishes after this driver has read the newest version and before it creates
    the next."""
    receipts = commit_all(storage)
    mine = write_manifest(storage, PLAN, receipts, FACTS)
    monkeypatch.setattr(
        manifests,
        "_refuse_missing_shards",
        lambda *_: storage.write(
            "_manifest/v000002.json", as_json(with_digest(mine | {"num_layers": 9}))
        ),
    )
    with pytest.raises(InputError, match=r"One driver at a time.*v000002\.json from another"):
        write_manifest(storage, PLAN, receipts, FACTS | {"num_layers": 7})
    assert open_traces(storage).manifest["num_layers"] == 9


def test_a_publication_whose_answer_was_lost_is_ours(storage, monkeypatch):
    receipts = commit_all(storage)

    def lossy(self, key, data):
        self.write(key, data)
        return False

    monkeypatch.setattr(type(storage), "create", lossy)
    manifest = write_manifest(storage, PLAN, receipts, FACTS)
    assert open_traces(storage).manifest == manifest


def test_traces_of_the_first_release_are_read_and_resumed(storage):
    """In the first release, shards were named by unit without a digest, manifests had no parts,
    and neither receipts nor manifests had a digest."""
    manifest = write_manifest(storage, PLAN, commit_all(storage), FACTS)
    rows = read_gates(storage)
    del manifest["parts"], manifest["document_digest"]
    manifest["schema_version"] = 3
    for unit in manifest["units"]:
        del unit["document_digest"], unit["schema_version"]
        for table, file in unit["files"].items():
            data = storage.read(f"{table}/{file['name']}")
            storage.delete(f"{table}/{file.pop('name')}")
            storage.write(f"{table}/{unit['unit_id']}.parquet", data)
        storage.write(f"_receipts/{unit['unit_id']}.json", json.dumps(unit).encode())
    storage.write("_manifest/v000001.json", json.dumps(manifest).encode())
    assert read_gates(storage).equals(rows)
    receipts = committed_receipts(storage, PLAN)
    assert len(receipts) == 2
    write_manifest(storage, PLAN, receipts, FACTS)
    assert read_gates(storage).equals(rows)


def test_a_manifest_of_another_plan_is_refused(storage):
    manifest = write_manifest(storage, PLAN, commit_all(storage), FACTS)
    other = with_digest(manifest | {"plan_hash": "0" * 16})
    storage.write("_manifest/v000002.json", as_json(other))
    with pytest.raises(InputError, match="must have a manifest of its plan"):
        open_traces(storage)
