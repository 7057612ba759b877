"""Driver of a collection without Ray: a driver that was replaced publishes and quarantines nothing,
and a unit that is done leaves quarantine."""

import json
import tracemalloc
from dataclasses import replace

import pytest

from pipeline.cluster.actor_pool import ActorPool
from pipeline.cluster.config import ClusterConfig
from pipeline.cluster.work_queue import Failure, WorkQueue, WorkResult
from pipeline.collect import driver
from pipeline.collect.driver import collect
from pipeline.collect.quarantine import FOLDER, quarantine, quarantined
from pipeline.errors import IncompleteError, InputError, StorageError
from pipeline.storage.object_store import open_storage
from pipeline.traces.commit import claim_output
from pipeline.traces.lease import acquire_lease
from pipeline.traces.multi_dataset import open_traces
from tests.pipeline.little_traces import PLAN, commit_all

DONE, LEFT = PLAN.units()


class PoolOfThisProcess(ActorPool):
    """Pool that commits each unit in the calling process, or gives each up if there is an error. It
    starts no Ray, which test_faults.py does."""

    error: Exception | None = None

    def __init__(self, worker, arguments, config):
        self.storage = arguments["root"]

    def map_unordered(self, units):
        for unit in units:
            yield result_of(unit, self.storage, self.error)

    def count(self, what, amount):
        """Count nothing: no Ray exports the counters."""


def result_of(unit, storage, error=None):
    if error is None:
        (receipt,) = commit_all(storage, PLAN, [unit]).values()
        return WorkResult(unit=unit, attempts=1, node="here", seconds=1.0, result=receipt)
    failure = Failure(error=error, text=repr(error))
    return WorkResult(unit=unit, attempts=2, node="here", seconds=1.0, failure=failure)


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(PoolOfThisProcess, "error", None)
    monkeypatch.setattr(driver, "ActorPool", PoolOfThisProcess)
    return PoolOfThisProcess


@pytest.fixture
def storage(tmp_path):
    """Storage of a collection with one of its two units done."""
    storage = open_storage(tmp_path / "traces")
    claim_output(storage, PLAN)
    commit_all(storage, PLAN, [DONE])
    return storage


@pytest.fixture
def replaced(storage):
    """Lease of a driver that another driver has replaced."""
    with acquire_lease(storage) as lease:
        storage.write("_lease/000002.json", b"{}")
        yield lease


def run(storage, **options):
    return collect(PLAN, storage, ClusterConfig(), **options)


def test_a_replaced_driver_quarantines_nothing(storage, replaced, pool):
    pool.error = ArithmeticError("diverged")
    with pytest.raises(InputError, match="must have one driver"):
        run(storage, check_not_fenced=replaced.check_not_fenced)
    assert storage.sizes(FOLDER) == {}


def test_a_replaced_driver_publishes_no_manifest(storage, replaced, pool):
    with pytest.raises(InputError, match="must have one driver"):
        run(storage, check_not_fenced=replaced.check_not_fenced)
    assert storage.sizes("_manifest") == {}


def test_a_replaced_driver_publishes_no_manifest_of_units_that_were_done_before(storage, replaced):
    commit_all(storage, PLAN, [LEFT])
    with pytest.raises(InputError, match="must have one driver"):
        run(storage, check_not_fenced=replaced.check_not_fenced)
    assert storage.sizes("_manifest") == {}


def test_a_driver_that_holds_its_lease_publishes_every_unit_once(storage, pool):
    receipts = []
    with acquire_lease(storage) as lease:
        options = {"check_not_fenced": lease.check_not_fenced, "on_receipt": receipts.append}
        manifest = run(storage, **options)
    assert [receipt["unit_id"] for receipt in receipts] == [LEFT.unit_id]
    assert [unit["unit_id"] for unit in manifest["units"]] == [DONE.unit_id, LEFT.unit_id]
    published = storage.read("_manifest/v000001.json") or b""
    assert json.loads(published) == manifest


def test_a_unit_leaves_quarantine_when_it_is_done(storage, pool):
    """One unit was done by a worker that its driver took for dead; the other one is done now."""
    for unit in (DONE, LEFT):
        quarantine(storage, result_of(unit, storage, ArithmeticError("diverged")))
    run(storage)
    assert quarantined(storage) == set()


def test_a_unit_that_fails_is_quarantined_and_ends_without_a_manifest(storage, pool):
    pool.error = ArithmeticError("diverged")
    with pytest.raises(IncompleteError, match=r"^1 units are quarantined and no manifest"):
        run(storage)
    assert quarantined(storage) == {LEFT.unit_id}
    assert storage.sizes("_manifest") == {}


class PoolOfOneUnit(PoolOfThisProcess):
    """Pool that hands out the first unit as a real pool does, and then stops."""

    handed_out: list

    def map_unordered(self, units):
        queue = WorkQueue(units, max_deaths=3, max_errors=2)
        item = queue.take("here", {"here"})
        assert item is not None
        self.handed_out.append((item.unit, queue.left, queue.waiting))
        raise KeyboardInterrupt
        yield


@pytest.mark.timeout(60)
def test_a_huge_collection_begins_at_once_in_little_memory(tmp_path, monkeypatch):
    """10^9 trajectories are 20,833,334 units, which as a list take some GB and minutes."""
    plan = replace(PLAN, num_trajectories=10**9, batch_size=48)
    storage = open_storage(tmp_path / "traces")
    claim_output(storage, plan)
    commit_all(storage, plan, [plan.unit(7, plan.plan_hash)])
    monkeypatch.setattr(PoolOfOneUnit, "handed_out", [], raising=False)
    monkeypatch.setattr(driver, "ActorPool", PoolOfOneUnit)
    tracemalloc.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            collect(plan, storage, ClusterConfig())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    ((unit, left, waiting),) = PoolOfOneUnit.handed_out
    assert (unit.index, left, waiting) == (0, 20_833_333, 20_833_332)
    assert peak < 10e6
    with pytest.raises(InputError, match="has no manifest"):
        open_traces(storage)


def test_a_full_disk_leaves_units_undone_and_names_them(storage, pool, monkeypatch, capsys):
    """The disk is full for the worker, and then for the note about its unit."""
    pool.error = StorageError(
        "Storage must be written to. Got an error: its disk is full. Free it."
    )

    def full(self, key, data):
        raise StorageError(f"Got an error at {key}: its disk is full.")

    monkeypatch.setattr(type(storage), "write", full)
    with pytest.raises(IncompleteError, match=rf"^1 units .*{LEFT.unit_id}.*its disk is full"):
        run(storage)
    assert f"the error of unit {LEFT.unit_id} cannot be kept" in capsys.readouterr().out


def test_storage_that_fails_in_the_driver_leaves_work_undone(storage, pool, monkeypatch):
    def fails(self, key, data):
        raise StorageError("Storage must answer. Got an error: no answer. Run it again.")

    monkeypatch.setattr(type(storage), "create", fails)
    with pytest.raises(IncompleteError, match=r"^Storage must answer"):
        run(storage)
