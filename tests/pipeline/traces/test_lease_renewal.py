"""Renewal of a lease by its holder, in a thread."""

import json
import threading
import time

import pytest

from pipeline.errors import InputError
from pipeline.storage.object_store import open_storage
from pipeline.traces.lease import LeaseConfig, acquire_lease, take
from tests.pipeline.traces.test_lease import QUICK, documents, leave


@pytest.fixture
def storage(place):
    return open_storage(place)


def test_a_renewing_driver_of_another_machine_is_found_alive(storage):
    leave(storage, 1)
    threading.Timer(0.3, leave, (storage, 1), {"renewals": 1}).start()
    with pytest.raises(InputError, match="process 1 on 'far'"):
        take(storage, LeaseConfig(patience_s=60.0))
    assert list(documents(storage)) == ["000001.json"]


def test_a_holder_renews_by_itself(storage):
    with acquire_lease(storage, QUICK):
        before = documents(storage)["000001.json"]["renewals"]
        deadline = time.monotonic() + 30
        while documents(storage)["000001.json"]["renewals"] < before + 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def renewing_thread():
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "lease"]
    return thread


def test_a_renewal_under_way_does_not_undo_the_release(storage, monkeypatch):
    """The renewal reaches the storage late: after the release, if the release does not wait."""
    write = type(storage).write
    begun, released = threading.Event(), threading.Event()

    def slow(self, key, data):
        if json.loads(data)["state"] == "held":
            begun.set()
            released.wait(0.5)
        write(self, key, data)
        if json.loads(data)["state"] == "released":
            released.set()

    monkeypatch.setattr(type(storage), "write", slow)
    with acquire_lease(storage, LeaseConfig(patience_s=0.1)):
        thread = renewing_thread()
        assert begun.wait(30)
    thread.join(30)
    assert documents(storage)["000001.json"]["state"] == "released"


def test_a_replaced_holder_renews_no_more(storage):
    with acquire_lease(storage, QUICK):
        thread = renewing_thread()
        leave(storage, 2)
        thread.join(30)
        assert not thread.is_alive()
