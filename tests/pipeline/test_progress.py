"""Lines that a log can be searched by."""

import json

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.work_queue import Failure, WorkResult
from pipeline.collect.driver import unit_line
from pipeline.exploration.collect_plan import Unit
from pipeline.progress import Progress, fields_line

UNIT = Unit(unit_id="ab12", index=5, start=0, stop=48)


def test_plain_words_stay_as_they_are():
    assert fields_line("done:", a=1, b="10.0.0.7/ab", c=1.5) == "done: a=1 b=10.0.0.7/ab c=1.5"


@given(st.text())
def test_any_value_is_one_word_on_one_line_and_reads_back(value):
    name, _, word = fields_line("done:", a=value).removeprefix("done: ").partition("=")
    assert name == "a"
    assert len(word.splitlines()) == 1
    assert (json.loads(word) if word.startswith('"') else word) == value


def test_a_unit_that_is_done():
    receipt = {"trajectories": 48, "gates": 19200}
    outcome = WorkResult(unit=UNIT, attempts=2, node="10.0.0.7/ab", seconds=74.251, result=receipt)
    assert unit_line(outcome) == (
        "collect: unit=ab12 index=5 status=done attempt=2 node=10.0.0.7/ab seconds=74.25 "
        "trajectories=48 gates=19200"
    )


def test_a_unit_that_was_given_up():
    failure = Failure(error=KeyError(1), text="KeyError: 1")
    outcome = WorkResult(unit=UNIT, attempts=5, node="10.0.0.7/ab", seconds=1.0, failure=failure)
    assert "status=given_up attempt=5" in unit_line(outcome)
    assert unit_line(outcome).endswith("trajectories=0 gates=0")


def test_a_line_and_progress_in_a_log(capsys):
    progress = Progress("collect", 4, "trajectories", every_s=0.0)
    progress.start_at(2)
    progress.log("collect: unit=ab12")
    progress.advance(2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "collect: unit=ab12"
    assert lines[1].startswith("collect: 100%|")
    assert "| 4/4 [" in lines[1]
    assert " trajectories/s]" in lines[1]
    assert max(map(len, lines)) <= 100
