"""Prose rules that a program can check: openings of docstrings, and words without a meaning in the
field."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache

import pytest

from tests.import_graph import ROOT, sources

TREES = ("dqar", "pipeline", "jobs", "benchmarks")
OPENINGS = re.compile(
    r"(as|how|it|of|such|that|these|they|those|what|where|whether|which|who|why)\b",
    re.IGNORECASE,
)
"""First words of a docstring that names no subject: "Whether x" is "Return True if x"."""
PRIVATE = re.compile(
    r"\b(twins?|noises|coins?|mend(?:s|ed|ing)?|rivals?|desk|tape|seats?|told|anew|likewise"
    r"|the seed's|the seeds')(?!\w)",
    re.IGNORECASE,
)
"""Words to replace by terms of the field: reference sample, noise samples, random draws, fix,
alternative, work queue, step log, run slot, passed or reported, again, also, the DQAR paper's."""
ON_DISK: dict[tuple[str, str], str] = {
    ("benchmarks/distributed/collection_overhead.py", "twins"): "key of the result's JSON",
    ("benchmarks/quality/ground_truth.py", "noises"): "key of the result's JSON",
    ("benchmarks/quality/paper_claims.py", "twin"): "operating point in the file of a seed",
    ("pipeline/evaluate/tasks.py", "twin"): "prefix of arrays in the cache of results",
    ("pipeline/methods/fewer_steps.py", "twin"): "operating point of the baseline in results.json",
}
"""String constants that are names on disk, by file, with the reason to keep each. In docstrings and
comments of all files, such a name may stand between double backticks."""
QUOTED = re.compile("|".join(f"``{name}``" for _, name in ON_DISK))


@cache
def tree_of(source: str) -> ast.Module:
    return ast.parse(source)


def strings_in(source: str) -> Iterator[ast.Constant]:
    """All string constants, parts of f-strings and docstrings included."""
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node


def docstrings_in(source: str) -> Iterator[ast.Constant]:
    """String constants that are statements: docstrings, and descriptions below a name."""
    for node in ast.walk(tree_of(source)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value


def comments_in(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every comment."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def headless_docstrings(source: str) -> list[str]:
    """Line and first line of each docstring that opens with one of :data:`OPENINGS`."""
    firsts = [
        (docstring.lineno, str(docstring.value).strip().partition("\n")[0])
        for docstring in docstrings_in(source)
    ]
    return [f"{line}: {first}" for line, first in firsts if OPENINGS.match(first)]


def private_words(source: str, allowed: frozenset[str] = frozenset()) -> list[str]:
    """Line and word of each of :data:`PRIVATE` in a string or comment that is not ``allowed``."""
    if not PRIVATE.search(source):
        return []
    strings = [(node.lineno, str(node.value)) for node in strings_in(source)]
    texts = [(line, text) for line, text in strings if text not in allowed]
    texts = [(line, QUOTED.sub("", text)) for line, text in [*texts, *comments_in(source)]]
    return [
        f"{line + text.count(chr(10), 0, hit.start())}: {hit[0]}"
        for line, text in texts
        for hit in PRIVATE.finditer(text)
    ]


def sources_of(tree: str) -> Iterator[tuple[str, str]]:
    """Name and text of each file of a tree."""
    for path in sources(tree):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


@pytest.mark.parametrize("tree", TREES)
def test_docstrings_open_with_their_subject(tree):
    found = [
        f"{name}:{place}" for name, text in sources_of(tree) for place in headless_docstrings(text)
    ]
    assert found == [], "\n".join(found)


@pytest.mark.parametrize("tree", TREES)
def test_strings_and_comments_have_no_private_word(tree):
    found = []
    for name, text in sources_of(tree):
        allowed = frozenset(word for file, word in ON_DISK if file == name)
        found += [f"{name}:{place}" for place in private_words(text, allowed)]
    assert found == [], "\n".join(found)


def test_names_on_disk_are_still_written():
    for file, word in ON_DISK:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert word in {node.value for node in strings_in(source)}, file


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('def f():\n    """Whether it runs."""\n', [2]),
        ('X = 1\n"""Of a step."""\n', [2]),
        ('class A:\n    """It\'s a class."""\n    y: int\n    """\n    What y is."""\n', [2, 4]),
        ('"""Offset of a step."""\nX = "What is this?"\n', []),
    ],
)
def test_headless_docstrings_are_found(source, lines):
    assert [int(place.partition(":")[0]) for place in headless_docstrings(source)] == lines


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"""A module.\n\nIts twin is told."""\n', ["3: twin", "3: told"]),
        ('x = f"{1} Coins"  # drawn anew\n', ["1: Coins", "1: anew"]),
        ('print("the seed\'s script")\n', ["1: the seed's"]),
        ('twin = rival_of(tape=1)\ny = "retold, recommend, tapestry"\n', []),
        ('x = "twin"  # ``twin`` of results.json\n', ["1: twin"]),
        ('"""``twin`` of results.json; the twin."""\n', ["1: twin"]),
        ("# a ``coin`` is no name on disk\n", ["1: coin"]),
    ],
)
def test_private_words_are_found(source, found):
    assert private_words(source) == found


def test_a_name_on_disk_is_allowed_in_its_file_alone():
    assert private_words('x = "twin"\n', frozenset({"twin"})) == []
    assert private_words('x = "the twin"\n', frozenset({"twin"})) == ["1: twin"]
