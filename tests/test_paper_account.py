"""Tests and sections named in docs/paper.md exist, and each of its claims names a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ACCOUNT = (TESTS.parent / "docs" / "paper.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(test_\w+)`", ACCOUNT)))


def names_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_named_test_exists(file, name):
    assert name in names_in(file)


def test_rows_without_a_test_are_known():
    rows = [line.split(" | ") for line in ACCOUNT.splitlines() if line.startswith("| ")]
    bare = [row[0] for row in rows if len(row) == 4 and "::" not in row[2]]
    headings = {"| the paper says"}
    assert set(bare) - headings == {"| CLIP score"}


def test_quoted_sections_of_the_results_exist():
    quoted = set(re.findall(r'(\w*results\.md), "([^"]+)"', ACCOUNT))
    assert quoted
    for name, title in quoted:
        text = (TESTS.parent / "docs" / name).read_text(encoding="utf-8")
        assert title in {line.lstrip("# ") for line in text.splitlines() if line.startswith("#")}
