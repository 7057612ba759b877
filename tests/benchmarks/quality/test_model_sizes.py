"""The tables of docs/models.md are those that the script makes, and agree with known sizes."""

from __future__ import annotations

import pytest

from benchmarks.quality.model_sizes import BEGIN, END, HEADS, cached, computed, sizes_of, write
from benchmarks.quality.published_models import MODELS
from dqar.integration.sites import gate_table
from tests.docs.markdown_pages import text_of

BY_NAME = {model.name: model for model in MODELS}
BRANCHES, TOKENS, WIDTH = 2, 256, 1152
"""Guidance branches, tokens and width of DiT-XL/2 at 256x256."""


def committed() -> list[list[str]]:
    """Rows of the page's tables, cell by cell."""
    lines = text_of("docs/models.md").partition(BEGIN)[2].partition(END)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]


@pytest.fixture(scope="module")
def dit():
    return sizes_of(BY_NAME["DiT-XL/2"])


def test_committed_rows_are_what_the_script_makes(dit):
    assert all(row(dit) in committed() for row in HEADS)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME.keys() - {"DiT-XL/2"})
def test_committed_rows_of_large_models_are_what_the_script_makes(name):
    sizes = sizes_of(BY_NAME[name])
    assert all(row(sizes) in committed() for row in HEADS)


def test_every_model_has_a_row_in_every_table():
    names = [row[0].strip("[").partition("]")[0] for row in committed()]
    assert all(names.count(name) == len(HEADS) for name in BY_NAME)


def test_sizes_of_dit_are_those_by_hand(dit):
    value = BRANCHES * TOKENS * WIDTH * 2
    assert dit.cache["attn"] == dit.cache["ff"] == dit.cache["block"] == 28 * value
    assert dit.cache["stack"] == value
    # Of a feed-forward: two products with a matrix of WIDTH x 4 WIDTH, two FLOPs each.
    assert dit.flops["ff"] == 28 * BRANCHES * TOKENS * 2 * 2 * 4 * WIDTH**2
    projections, products = 4 * WIDTH**2, 2 * TOKENS * WIDTH
    assert dit.flops["attn"] == 28 * BRANCHES * TOKENS * 2 * (projections + products)
    assert dit.total_flops > dit.flops["block"] > dit.flops["attn"] + dit.flops["ff"]


def test_gates_are_those_of_the_library(dit):
    transformer = dit.model.transformer()
    for site, count in dit.gates.items():
        assert gate_table(transformer, (site,)).num_gates == count


def test_rows_say_what_is_missing(dit):
    assert cached(dit)[2].endswith("(attn, ff)")
    assert computed(dit)[3] == "-"


def test_only_the_marked_part_of_a_page_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for tables in ("first", "second"):
        write(page, tables)
        assert page.read_text() == f"before\n{BEGIN}\n\n{tables}\n\n{END}\nafter\n"
