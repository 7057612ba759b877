"""Markdown pages of the repository, split into headings, links and code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOUND = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PAGES = tuple(path.relative_to(ROOT).as_posix() for path in FOUND)
"""Every page, by its path from the root."""
RECORDS = ("docs/LOG.md", "docs/changed_messages.md", "CHANGELOG.md")
"""Pages about the past, whose commands and paths were true at the revision that they name."""
FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NOT_RUN = re.compile(r"<!-- not run: (.+) -->\n\Z")
"""Comment above a block that no test runs, with its reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced code block of a page."""

    page: str
    line: int
    """Line of the first line of code, from 1."""
    language: str
    code: str
    not_run: str | None
    """Reason why no test runs it; None for a block that is run."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str, language: str) -> list[Block]:
    """Code blocks of a page in one language; an empty language is a block without one."""
    text = text_of(page)
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start(3)) + 1,
            language=found[2],
            code=found[3],
            not_run=reason[1] if (reason := NOT_RUN.search(text[: found.start()])) else None,
        )
        for found in FENCE.finditer(text)
        if found[2] == language
    ]


def links_of(page: str) -> list[str]:
    """Targets of the links and images of a page."""
    return LINK.findall(CODE.sub("`", FENCE.sub("", text_of(page))))


def anchors_of(page: str) -> list[str]:
    """Anchors of the headings of a page, as GitHub makes them: equal ones are numbered."""
    headings = re.findall(r"^#{1,6} +(.+?) *$", FENCE.sub("", text_of(page)), re.MULTILINE)
    texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    anchors = [re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts]
    earlier = [anchors[:place].count(anchor) for place, anchor in enumerate(anchors)]
    return [f"{one}-{seen}" if seen else one for one, seen in zip(anchors, earlier, strict=True)]
