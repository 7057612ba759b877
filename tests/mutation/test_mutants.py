"""Tables of mutants: each names text that the source has once, and tests that exist."""

from collections import Counter

import pytest

from tests.import_graph import ROOT
from tests.mutation.mutant import Mutant
from tests.mutation.run import MUTANTS, outcome_of, summary_of


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_mutant_changes_its_source_in_one_place(mutant):
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    changed = mutant.applied_to(source)
    assert changed != source
    compile(changed, mutant.file, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_the_tests_of_a_mutant_exist(mutant):
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8")


def test_each_fault_is_named_once():
    assert {
        fault for fault, n in Counter(mutant.fault for mutant in MUTANTS).items() if n > 1
    } == set()


@pytest.fixture
def tree(tmp_path):
    """A program of one line with one test, which does not check a negative number."""
    (tmp_path / "size.py").write_text("def size(x):\n    return abs(x)\n")
    (tmp_path / "test_size.py").write_text(
        "from size import size\n\n\ndef test_size():\n    assert size(2) == 2\n"
    )
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\nmarkers = ["slow: long runs"]\n'
    )
    return tmp_path


def mutant_of(new, **more):
    texts = {"fault": new, "file": "size.py", "old": "abs(x)", "new": new}
    return Mutant(**texts, tests=("test_size.py",), **more)


@pytest.mark.slow
def test_outcomes_are_those_of_the_tests_and_the_source_comes_back(tree):
    source = (tree / "size.py").read_text()
    mutants = [mutant_of("-x"), mutant_of("x"), mutant_of("max(x, -x)", equivalent="same value")]
    outcomes = [outcome_of(mutant, tree) for mutant in mutants]
    assert outcomes == ["killed by test_size", "survived", "survived (same value)"]
    assert (tree / "size.py").read_text() == source
    assert summary_of(mutants, outcomes) == (
        "3 mutants: 1 killed, 2 survived, 1 of them with a stated reason"
    )


def test_tests_that_cannot_run_are_no_kill(tree):
    (tree / "test_size.py").write_text("")
    with pytest.raises(RuntimeError, match="Got exit code 5"):
        outcome_of(mutant_of("x"), tree)


def test_text_that_is_gone_is_refused(tree):
    (tree / "size.py").write_text("def size(x):\n    return x\n")
    with pytest.raises(ValueError, match=r"exactly once\. Got 0 of 'abs\(x\)'"):
        mutant_of("x").apply(tree)
