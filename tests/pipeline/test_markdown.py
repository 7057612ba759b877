"""Markdown tables: their pipes, their padding, and cells that stay as they were passed."""

import pytest

from pipeline.markdown import markdown_table

HEADS, ROWS = ["name", "x"], [["a", "1.50"], ["longer", "-"]]


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_columns_are_padded_to_one_width():
    head, rule, *rows = markdown_table(HEADS, iter(ROWS)).splitlines()
    assert head.startswith("| name ")
    assert set(rule) == {"|", "-"}
    assert [cells_of(row) for row in rows] == ROWS
    assert len({len(line) for line in (head, rule, *rows)}) == 1


@pytest.mark.parametrize("cell", ["1.50", "0.10", "1e3", "+0.000", "007", "nan", "0.01 ± 0.02"])
def test_numbers_are_not_reformatted(cell):
    assert cells_of(markdown_table(["x", "y"], [[cell, "a"]]).splitlines()[-1]) == [cell, "a"]


def test_a_table_without_rows_is_its_head():
    head, rule = markdown_table(HEADS, []).splitlines()
    assert cells_of(head) == HEADS
    assert set(rule) == {"|", "-"}
