"""Collection under the folder's lease: a driver replaced before its first manifest publishes
none."""

import pytest

from pipeline.cluster.config import ClusterConfig
from pipeline.collect.run import collect_traces
from pipeline.errors import InputError
from pipeline.storage.object_store import open_storage
from pipeline.traces.commit import claim_output
from pipeline.tracking import Tracker
from tests.pipeline.little_traces import PLAN, commit_all


@pytest.fixture
def storage(tmp_path):
    """Storage of a collection whose units are all done and which has no manifest."""
    storage = open_storage(tmp_path / "traces")
    claim_output(storage, PLAN)
    commit_all(storage, PLAN)
    return storage


@pytest.fixture
def tracker(tmp_path):
    return Tracker(f"sqlite:///{tmp_path}/mlflow.db", "collection")


def collect(storage, tracker):
    return collect_traces(PLAN, storage, ClusterConfig(), tracker, target_file_mb=1.0)


def test_a_driver_that_is_replaced_publishes_nothing(storage, tracker, monkeypatch):
    """Another driver takes over while this driver waits for the tracking store."""
    open_pipeline = tracker.open_pipeline

    def slow(lineage, name):
        storage.write("_lease/000002.json", b"{}")
        return open_pipeline(lineage, name)

    monkeypatch.setattr(tracker, "open_pipeline", slow)
    shards = storage.sizes("gates")
    with pytest.raises(InputError, match="must have one driver"):
        collect(storage, tracker)
    assert storage.sizes("_manifest") == {}
    assert storage.sizes("gates") == shards
    (run,) = tracker.client.search_runs([tracker.experiment_id], "tags.stage = 'collect'")
    assert run.info.status == "FAILED"


def test_a_collection_is_published_compacted_and_tracked(storage, tracker):
    manifest = collect(storage, tracker)
    assert list(storage.sizes("_manifest")) == ["v000001.json", "v000002.json"]
    assert len(manifest["parts"]) == 1
    (run,) = tracker.client.search_runs([tracker.experiment_id], "tags.stage = 'collect'")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["collect/gates"] == manifest["gates"]
    assert run.data.tags["decision_digest"] == manifest["decision_digest"]
