"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells as they are. Example: ``| a | b |``, ``|---|---|``, ``| 1 | 2 |``."""
    return "\n".join([_line(heads), "|---" * len(heads) + "|", *map(_line, rows)])


def padded_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns are padded to one width, to be read as plain text too."""
    lines = [heads, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(heads))]
    first, *others = [
        [cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines
    ]
    return "\n".join(map(_line, [first, ["-" * width for width in widths], *others]))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
