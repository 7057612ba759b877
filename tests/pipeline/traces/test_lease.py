"""Lease of a folder: a second driver is refused, a dead driver does not block, and a driver that
was replaced stops."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.storage.object_store import open_storage
from pipeline.traces import lease as leases
from pipeline.traces.lease import LeaseConfig, acquire_lease, lease_config, take
from pipeline.traces.process_id import this_process
from tests.odd_files import ODD_FILES

QUICK = LeaseConfig(patience_s=0.6)
ELSEWHERE = {"host": "far", "machine": "another boot", "pid": 1, "started": 1}


@pytest.fixture
def storage(place):
    return open_storage(place)


def documents(storage):
    names = storage.sizes("_lease")
    return {name: json.loads(storage.read(f"_lease/{name}")) for name in names}


def leave(storage, number, **changes):
    """Write a lease as a driver on another machine would leave it."""
    document = asdict(leases._new_document()) | {"holder": ELSEWHERE} | changes
    storage.write(f"_lease/{number:06d}.json", json.dumps(document).encode())


def test_leases_are_numbered_and_released(storage):
    for number in (1, 2):
        with acquire_lease(storage, QUICK) as lease:
            assert lease.number == number
            lease.check_not_fenced()
    assert list(documents(storage)) == ["000001.json", "000002.json"]
    assert {document["state"] for document in documents(storage).values()} == {"released"}


def test_a_second_driver_of_this_machine_is_refused_at_once(storage):
    with acquire_lease(storage), pytest.raises(InputError) as refused:
        take(storage, LeaseConfig(patience_s=3600.0))
    said = str(refused.value)
    assert f"process {os.getpid()} on" in said
    assert "Wait until that process has ended, or end it" in said
    assert len(documents(storage)) == 1


HOLDS = """
import sys, time
from pipeline.traces.lease import acquire_lease
with acquire_lease(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_driver_blocks_nobody(storage, place):
    driver = subprocess.Popen(
        [sys.executable, "-c", HOLDS, place], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {driver.pid} on"):
        take(storage, LeaseConfig(patience_s=3600.0))
    driver.kill()
    # The process has ended but was not reaped: its pid still exists.
    os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
    with acquire_lease(storage, LeaseConfig(patience_s=3600.0)) as lease:
        assert lease.number == 2
    driver.wait()
    driver.stdout.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", ODD_FILES.values(), ids=ODD_FILES)
@pytest.mark.parametrize("number", [1, 7])
def test_a_lease_that_is_no_file_is_refused_in_one_line(tmp_path, make, number):
    storage = open_storage(tmp_path)
    with acquire_lease(storage, QUICK) as held:
        assert held.number == 1
        if number == 7:
            make(tmp_path / "_lease" / "000007.json")
            with pytest.raises(InputError, match=r"000007\.json must be a regular file"):
                held.check_not_fenced()
    if number == 1:
        (tmp_path / "_lease" / "000001.json").unlink()
        make(tmp_path / "_lease" / "000001.json")
    with pytest.raises(InputError, match=rf"00000{number}\.json must be a regular file\. Got a"):
        take(storage, QUICK)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [10**12, 999_999_999_999_999_999, 2**63 - 1, 2**63, 10**200])
def test_a_number_that_no_driver_gave_is_refused(storage, number):
    leave(storage, number, state="released")
    with pytest.raises(
        InputError, match=r"numbers below 10\^12\. Got \d+, .* Move that file aside"
    ):
        take(storage, QUICK)


@pytest.mark.timeout(60)
def test_a_driver_gives_up_where_others_are_always_first(storage, monkeypatch):
    def first(self, key, data):
        number = int(key[7:-5])
        leave(storage, number, state="released")
        return False

    monkeypatch.setattr(type(storage), "create", first)
    monkeypatch.setattr(leases, "TRIES", 5)
    with pytest.raises(InputError, match=r"Got 5 leases that others created first"):
        take(storage, QUICK)


def test_a_replaced_driver_is_told_what_is_known_of_the_other(storage):
    mine = asdict(this_process())
    known = {
        "has ended: run this command again": {"state": "released"},
        "has died since: run this command again": {"holder": mine | {"started": 1}},
        "is alive: leave it to finish": {"holder": mine},
        "cannot tell if it is alive": {"holder": ELSEWHERE},
    }
    with acquire_lease(storage, QUICK) as lease:
        for number, (advice, changes) in enumerate(known.items(), start=2):
            leave(storage, number, **changes)
            with pytest.raises(InputError, match=advice):
                lease.check_not_fenced()


def test_a_silent_driver_of_another_machine_is_outlasted(storage, capsys):
    leave(storage, 7)
    with acquire_lease(storage, QUICK) as lease:
        assert lease.number == 8
    (line,) = capsys.readouterr().out.splitlines()
    assert "process 1 on 'far'" in line
    assert "waiting 0.6 s" in line


def test_a_replaced_driver_is_refused_before_it_publishes(storage):
    with acquire_lease(storage, QUICK) as lease:
        leave(storage, 2)
        with pytest.raises(
            InputError, match=r"second, process 1 on 'far'.*lease 2\. .* deletes nothing more"
        ):
            lease.check_not_fenced()


def test_a_released_lease_is_over_wherever_it_was(storage, capsys):
    leave(storage, 1, state="released")
    with acquire_lease(storage, LeaseConfig(patience_s=3600.0)) as lease:
        assert lease.number == 2
    assert capsys.readouterr().out == ""


def test_of_many_takers_one_holds(storage):
    """The other drivers find the holder alive, or the number of the next lease taken."""
    leave(storage, 1, state="released")
    taken, refused = [], []

    def compete():
        try:
            taken.append(take(storage, QUICK))
        except InputError as refusal:
            refused.append(refusal)

    threads = [threading.Thread(target=compete) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    assert len(refused) == 5
    assert list(documents(storage)) == ["000001.json", "000002.json"]


def test_an_answer_that_was_lost_is_found(storage, monkeypatch):
    """Storage reports that the file existed, although this request created it."""

    def lossy(self, key, data):
        self.write(key, data)
        return False

    monkeypatch.setattr(type(storage), "create", lossy)
    assert take(storage, QUICK).number == 1


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"state": 3}', b"\xff\xfe"])
def test_a_lease_that_does_not_read_is_outlasted(storage, data):
    storage.write("_lease/000003.json", data)
    storage.write("_lease/notes.txt", b"mine")
    assert take(storage, QUICK).number == 4


VALUES = st.one_of(st.none(), st.integers(), st.text(max_size=5), st.floats(), st.lists(st.none()))


@given(st.sampled_from(["state", "holder", "since", "renewals"]), VALUES)
def test_what_a_lease_holds_is_checked(tmp_path_factory, field, value):
    storage = open_storage(tmp_path_factory.mktemp("lease"))
    leave(storage, 1, **{field: value})
    with contextlib.suppress(InputError):
        assert take(storage, LeaseConfig(patience_s=0.01)).number == 2


def test_a_process_is_known_by_more_than_its_number():
    mine = this_process()
    assert mine.is_here
    assert not mine.is_gone
    assert replace(mine, started=mine.started - 1).is_gone
    assert replace(mine, pid=2**22 + 1).is_gone
    assert replace(mine, pid=2**70).is_gone
    elsewhere = replace(mine, machine="another", pid=2**22 + 1)
    assert not elsewhere.is_here
    assert not elsewhere.is_gone


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf", "nan", "1e9"])
def test_patience_must_be_seconds(monkeypatch, text):
    monkeypatch.setenv("DQAR_LEASE_S", text)
    with pytest.raises(InputError, match="DQAR_LEASE_S must be a number of seconds"):
        lease_config()


def test_the_states_on_disk_are_those_of_earlier_releases(storage):
    with acquire_lease(storage, QUICK):
        assert documents(storage)["000001.json"]["state"] == "held"
    assert documents(storage)["000001.json"]["state"] == "released"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [9, 999_999])
def test_the_newest_lease_is_the_largest_number(storage, number):
    """In the order of text, 1000000 comes before 999999."""
    for one in (number, number + 1):
        leave(storage, one, state="released")
    assert take(storage, QUICK).number == number + 2


def test_a_release_that_is_seen_while_waiting_ends_the_wait(storage):
    leave(storage, 1)
    changes = {"renewals": 1, "state": "released"}
    threading.Timer(0.3, leave, (storage, 1), changes).start()
    assert take(storage, LeaseConfig(patience_s=3600.0)).number == 2
