"""Quarantine: a unit that is given up leaves a file with its error, and a dataset that lacks units
is not published."""

import json
from dataclasses import replace

import pytest

from pipeline.cluster.work_queue import Failure, WorkResult
from pipeline.collect.quarantine import (
    FOLDER,
    HOPELESS,
    Diverged,
    quarantine,
    quarantine_key,
    refuse_hopeless,
    refuse_incomplete,
    release,
)
from pipeline.errors import IncompleteError, InputError
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.storage.object_store import open_storage

UNITS = list(
    CollectPlan(model="digits", model_hash="0", num_trajectories=96, batch_size=12).units()
)


def given_up(unit, error):
    text = f"Traceback (most recent call last):\n  somewhere\n{type(error).__name__}: {error}\n"
    failure = Failure(error=error, text=text)
    return WorkResult(unit=unit, attempts=2, node="10.0.0.1/ab", seconds=1.0, failure=failure)


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


def test_the_file_says_what_happened_and_where(storage):
    quarantine(storage, given_up(UNITS[1], KeyError("weights")))
    document = json.loads(storage.read(quarantine_key(UNITS[1].unit_id)))
    assert document["unit_id"] == UNITS[1].unit_id
    assert document["trajectories"] == [12, 24]
    assert (document["attempts"], document["node"]) == (2, "10.0.0.1/ab")
    assert document["error"] == "KeyError: 'weights'"
    assert document["traceback"].startswith("Traceback")
    assert document["when"].endswith("+00:00")


def test_a_second_reason_overwrites_the_first_and_release_removes_it(storage):
    for error in (KeyError("first"), KeyError("second")):
        quarantine(storage, given_up(UNITS[0], error))
    (only,) = storage.sizes(FOLDER)
    assert b"second" in storage.read(f"{FOLDER}/{only}")
    release(storage, [unit.unit_id for unit in UNITS])
    assert not storage.sizes(FOLDER)


def test_release_needs_no_folder(storage, tmp_path):
    release(storage, [UNITS[0].unit_id])
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_dataset_is_refused_with_the_quarantine_files(storage):
    refuse_incomplete(storage, [])
    lost = [given_up(unit, KeyError(1)) for unit in UNITS]
    with pytest.raises(IncompleteError, match=r"^8 units are quarantined and no manifest") as ended:
        refuse_incomplete(storage, lost)
    assert f"{storage}/{quarantine_key(UNITS[0].unit_id)}" in str(ended.value)
    assert "and 3 more. Run the same command again to retry the quarantined" in str(ended.value)


def test_a_model_that_diverges_everywhere_is_refused():
    lost = [given_up(unit, Diverged("3 of 12 trajectories")) for unit in UNITS[:HOPELESS]]
    refuse_hopeless(lost[:-1], num_done=0, num_missing=8)
    with pytest.raises(InputError, match=r"without diverging.* 3 of 12 trajectories.*--dtype"):
        refuse_hopeless(lost, num_done=0, num_missing=8)


def test_other_failures_everywhere_end_it_without_a_refusal():
    lost = [given_up(unit, KeyError(1)) for unit in UNITS[:HOPELESS]]
    with pytest.raises(IncompleteError, match=r"first 3 units all failed.*_quarantine/"):
        refuse_hopeless(lost, num_done=0, num_missing=8)


def test_a_collection_of_few_units_is_hopeless_when_all_failed():
    lost = [given_up(UNITS[0], Diverged("all"))]
    with pytest.raises(InputError):
        refuse_hopeless(lost, num_done=0, num_missing=1)


@pytest.mark.parametrize("num_done", [1, 5])
def test_nothing_is_hopeless_once_a_unit_is_done(num_done):
    lost = [given_up(replace(unit), Diverged("all")) for unit in UNITS]
    refuse_hopeless(lost, num_done=num_done, num_missing=8)
