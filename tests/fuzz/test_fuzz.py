"""A short part of the fuzzing, the same inputs each time; and the outcomes that it tells apart."""

import subprocess
import sys

import pytest

from tests.fuzz.cases import Case
from tests.fuzz.forked_job import ACCEPTED, UNUSABLE, Ending
from tests.fuzz.outcome import outcome_of
from tests.fuzz.run import KINDS

REFUSED = "sample.py: --steps must be from 1. Got 0. Pass --steps 50.\n"


@pytest.mark.parametrize(
    ("code", "stderr", "is_damaged", "outcome"),
    [
        (2, REFUSED, True, "refused"),
        (ACCEPTED, "", False, "accepted"),
        (ACCEPTED, "", True, "wrong silently"),
        (UNUSABLE, "The output folder", False, "wrong silently"),
        (1, "Traceback (most recent call last):\n", True, "traceback"),
        (2, f"a warning\n{REFUSED}", True, "traceback"),
        (2, "sample.py: It failed.\n", True, "traceback"),
        (2, "sample.py: --steps must hold self.x=3. Pass 4.\n", True, "traceback"),
        (124, "", False, "hang"),
        (1, "MemoryError\n", False, "memory"),
    ],
)
def test_outcomes(code, stderr, is_damaged, outcome):
    case = Case(kind="path", job="sample", args=(), note="", is_damaged=is_damaged)
    ending = Ending(code=code, stderr=stderr, left=(), seconds=0.0)
    assert outcome_of(case, ending)[0] == outcome


def test_a_refusal_that_leaves_files_is_a_failure():
    case = Case(kind="path", job="sample", args=(), note="")
    ending = Ending(code=2, stderr=REFUSED, left=("out",), seconds=0.0)
    assert outcome_of(case, ending) == ("traceback", f"refused, and left out: {REFUSED!r}")


def test_odd_inputs_are_refused_in_one_line_or_accepted():
    # In a separate process, which imports the libraries before it forks.
    command = [sys.executable, "-m", "tests.fuzz.run", "--seed", "1", "--cases", "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == len(KINDS) + 2
