"""Tables in GitHub's markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a markdown table whose columns are padded to one width, readable as plain text too.

    Cells are shown as they are passed: a caller formats its numbers, so that ``"1.50"`` stays so.
    """
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)
