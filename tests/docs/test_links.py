"""Links of the Markdown pages: each leads to a file and a heading that are there."""

from __future__ import annotations

import re

import pytest

from tests.docs.markdown_pages import PAGES, RECORDS, ROOT, anchors_of, links_of, text_of

SCHEMES = ("http://", "https://", "mailto:")
TREES = "benchmarks|configs|deploy|docs|dqar|examples|jobs|pipeline|tests"
NAMED = re.compile(rf"`((?:{TREES})/[\w./-]+\.\w+)(?:::(\w+))?`")
"""A path in backticks, with the test that it names."""
NOT_THERE = {
    "pipeline/methods/late_interval.py": "the page's example adds it",
    "dqar/integration/families/toy.py": "the page's example adds it",
    "benchmarks/results/cpu/dit-s-2-256-bB-costs.json": "B stands for the batch",
}
"""Paths that pages name and that need not exist, with the reason."""


def broken_links(page: str) -> list[str]:
    """Links of a page to a file or a heading that does not exist."""
    broken = []
    for link in links_of(page):
        if link.startswith(SCHEMES):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        path = target.resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            broken.append(f"{link}: no such file")
        elif anchor and anchor not in anchors_of(path.relative_to(ROOT).as_posix()):
            broken.append(f"{link}: no such heading")
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.test_links.ROOT", tmp_path)
    monkeypatch.setattr("tests.docs.markdown_pages.ROOT", tmp_path)
    (tmp_path / "a.md").write_text(
        "# A, b's `c` & d\n\n[1](a.md#a-bs-c--d) [2](#a-bs-c--d) [3](b.md) [4](#b) [5](https://x.org)\n"
        "`[6](none.md)`\n\n```\n[7](none.md)\n```\n"
    )
    assert broken_links("a.md") == ["b.md: no such file", "#b: no such heading"]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in RECORDS])
def test_every_file_and_test_that_a_page_names_is_there(page):
    for name, test in NAMED.findall(text_of(page)):
        # docs/paper.md names tests from tests/ on.
        paths = [path for path in (ROOT / name, ROOT / "tests" / name) if path.exists()]
        assert paths or name in NOT_THERE, name
        assert not test or f"def {test}(" in paths[-1].read_text(encoding="utf-8"), test


def test_every_page_is_in_the_navigation_of_the_site():
    index = text_of("docs/index.md")
    entries = re.findall(r"^(?:.+<)?([\w./]+)>?$", "\n".join(_toctrees(index)), re.MULTILINE)
    named = {(ROOT / "docs" / f"{entry}.md").resolve() for entry in entries}
    assert named == {(ROOT / page).resolve() for page in PAGES if page != "docs/index.md"}


def _toctrees(text: str) -> list[str]:
    found = re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(r"^:.*\n", "", block, flags=re.MULTILINE) for block in found]
