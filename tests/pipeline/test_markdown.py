"""Tables as text: byte for byte."""

from pipeline.markdown import markdown_table, padded_table

HEADS, ROWS = ["name", "x"], [["a", "1.5"], ["longer", "-"]]


def test_cells_are_as_they_are():
    text = markdown_table(HEADS, iter(ROWS))
    assert text == "| name | x |\n|---|---|\n| a | 1.5 |\n| longer | - |"


def test_columns_are_padded_to_their_widest_cell():
    assert padded_table(HEADS, iter(ROWS)).splitlines() == [
        "| name   | x   |",
        "| ------ | --- |",
        "| a      | 1.5 |",
        "| longer | -   |",
    ]


def test_a_table_without_rows_is_its_head():
    assert padded_table(HEADS, []) == "| name | x |\n| ---- | - |"
