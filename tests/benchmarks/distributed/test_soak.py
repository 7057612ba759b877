"""Figures of the soak test without a cluster: a collection that lost anything is not as planned."""

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.distributed.fault_injection import KINDS, draw_kinds
from benchmarks.distributed.soak import is_as_planned, records, summary

GOOD = {
    "seed": 7,
    "faults": [{"kind": "worker", "second": 1.0, "receipts": 2, "detail": ""}],
    "exit_code": 0,
    "seconds": 60.0,
    "partial_files_left": 1,
    "quarantined": 0,
    "rows_conserved": True,
    "decisions_equal": True,
    "floats_equal": True,
}
UNDISTURBED = GOOD | {"seed": 0, "faults": [], "seconds": 30.0, "partial_files_left": 0}


@given(st.integers(0, 2**32), st.integers(0, 40))
def test_every_kind_of_fault_is_drawn(seed, count):
    kinds = draw_kinds(random.Random(seed), count)
    assert len(kinds) == count
    assert set(kinds) <= set(KINDS)
    assert len(set(kinds)) == len(KINDS) or count < len(KINDS)
    assert kinds == draw_kinds(random.Random(seed), count)


@pytest.mark.parametrize(
    "change",
    [
        {"exit_code": 1, "rows_conserved": False},
        {"rows_conserved": False},
        {"decisions_equal": False},
        {"quarantined": 1},
    ],
)
def test_one_that_lost_something_is_not_as_planned(change):
    assert is_as_planned(GOOD)
    assert not is_as_planned(GOOD | change)


def test_figures_count_faults_and_what_became_of_them():
    figures = summary([UNDISTURBED, GOOD, GOOD | {"seed": 8, "decisions_equal": False}])
    assert (figures["faults"], figures["collections"], figures["as_planned"]) == (2, 2, 1)
    assert figures["faults_by_kind"] == Counter({"worker": 2})
    assert figures["seeds"] == [7, 8]
    assert (figures["seconds"], figures["undisturbed_seconds"]) == (120.0, 30.0)


def test_what_was_done_is_read_back(tmp_path):
    assert records(tmp_path) == []
    lines = [json.dumps(record) for record in (UNDISTURBED, GOOD)]
    (tmp_path / "collections.jsonl").write_text("\n".join(lines) + "\n")
    assert records(tmp_path) == [UNDISTURBED, GOOD]
