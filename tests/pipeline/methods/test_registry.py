"""Registry of methods: its order, the rows of each method, and that evaluate/ names no method."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from pipeline.errors import InputError
from pipeline.methods.base import COARSE, Comparison
from pipeline.methods.learned_gate import LearnedGate, MajoritySchedule
from pipeline.methods.learned_schedule import LearnedSchedule
from pipeline.methods.registry import (
    build_methods,
    chosen_methods,
    method_names,
    method_of,
    refuse_unknown,
)

EVALUATE = Path(__file__).parents[3] / "pipeline" / "evaluate"


def test_methods_are_in_the_order_of_the_rows():
    assert method_names() == (
        *("baseline", "fewer-steps", "fewer-steps-dpmsolver", "solvers", "solvers-all"),
        *("interval", "interval-forecast1", "interval-forecast2", "linear"),
        *("threshold", "threshold-tuned", "smoothcache", "smoothcache-tied", "router"),
        *("spaced", "one-stretch", "budget-search"),
        *("static", "learned"),
    )


def test_the_reference_is_always_among_the_chosen():
    names = [method.name for method in chosen_methods(("linear", "fewer-steps"))]
    assert names == ["baseline", "fewer-steps", "linear"]


@pytest.mark.parametrize("names", [(), ("interval", "magic")])
def test_unknown_names_are_refused(names):
    with pytest.raises(InputError, match=r"among baseline, .*, learned\. Got"):
        refuse_unknown(names)


@pytest.mark.parametrize(
    ("row", "method"),
    [
        ("interval", "interval"),
        ("interval-forecast1", "interval-forecast1"),
        ("smoothcache-tied", "smoothcache-tied"),
        ("fewer-steps", "fewer-steps"),
        ("fewer-steps-dpmsolver", "fewer-steps-dpmsolver"),
        ("solvers-all", "solvers-all"),
        ("learned-full", "learned"),
        ("static-plain-no-feedback", "static"),
    ],
)
def test_a_row_belongs_to_a_method(row, method):
    assert method_of(row).name == method


@pytest.mark.parametrize("row", ["learner", "interval2", ""])
def test_a_row_of_no_method_is_refused(row):
    with pytest.raises(ValueError, match="must belong to one of"):
        method_of(row)


def test_each_policy_is_followed_as_it_was_trained():
    plain = ReusePolicy()
    planned = ReusePolicy(PolicySpec(steps=4, plans=((0, 2),), plan_errors=(0.1,)))
    comparison = Comparison(
        methods=("static", "learned"),
        policies={"learned-a": plain, "learned-b": planned},
        grid=COARSE,
    )
    _, majority, *learned = build_methods(comparison)
    assert isinstance(majority, MajoritySchedule)
    assert majority.policy is plain
    first, second = learned
    assert isinstance(first, LearnedGate)
    assert isinstance(second, LearnedSchedule)
    assert (first.row_name, second.row_name) == ("learned-a", "learned-b")


def docstrings(tree: ast.AST) -> set[int]:
    """Return the ids of the nodes that are docstrings."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def names_in(source: str) -> set[str]:
    """Return the methods whose name is a string of the source, or starts one before a dash."""
    tree = ast.parse(source)
    skipped = docstrings(tree)
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in skipped
    }
    return {
        name
        for name in method_names()
        for text in texts
        if text == name or text.startswith(f"{name}-")
    }


@pytest.mark.parametrize("path", sorted(EVALUATE.glob("*.py")), ids=lambda path: path.stem)
def test_an_evaluation_names_no_method(path):
    assert names_in(path.read_text(encoding="utf-8")) == set()


def test_names_would_be_found():
    source = 'def f(row):\n    """baseline"""\n    return row == "linear", f"learned-{row}"\n'
    assert names_in(source) == {"linear", "learned"}


def test_policies_are_logged_against_every_method_that_reuses_at_equal_ratios():
    by_role = {role: [] for role in ("reference", "subject", "alternative", "context")}
    for name in method_names():
        by_role[method_of(name).role].append(name)
    assert by_role == {
        "reference": ["baseline"],
        "subject": ["learned"],
        "context": ["fewer-steps", "fewer-steps-dpmsolver", "solvers", "solvers-all", "linear"],
        "alternative": [
            *("interval", "interval-forecast1", "interval-forecast2"),
            *("threshold", "threshold-tuned", "smoothcache", "smoothcache-tied", "router"),
            *("spaced", "one-stretch", "budget-search", "static"),
        ],
    }
