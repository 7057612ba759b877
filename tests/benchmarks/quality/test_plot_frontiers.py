"""Frontiers over seeds: merged rows, title, band of the mean error, reproducible pictures."""

import json

import pytest

from benchmarks.quality.plot_frontiers import _title, by_seed_of, draw, frontier_of


def row(method, seed, flops, error, guidance=2.0):
    return {
        "method": method,
        "seed": seed,
        "flops_ratio": flops,
        "reuse_ratio": 1 - 1 / flops,
        "latent_rel_l2": error,
        "model": "digits",
        "sites": "attn",
        "steps": 50,
        "sampler": "ddim",
        "guidance": guidance,
        "num_samples": 64,
    }


@pytest.fixture
def folder(tmp_path):
    def write(name, *rows):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(rows))
        return tmp_path / name

    return write


def sweep(method, seed, low, high):
    return row(method, seed, 1.0, low), row(method, seed, 3.0, high)


def test_folders_of_a_seed_are_together_and_the_first_one_counts(folder):
    first = folder("a", *sweep("learned", 2, 0.01, 0.02))
    second = folder("b", *sweep("learned", 2, 0.5, 0.6), *sweep("interval", 2, 0.03, 0.04))
    other = folder("c", *sweep("learned", 1, 0.01, 0.02))
    one, two = by_seed_of([first, second, other])
    assert {found["seed"] for found in one} == {1}
    assert [found["latent_rel_l2"] for found in two] == [0.01, 0.02, 0.03, 0.04]
    _, chosen = by_seed_of([first, second, other], ("interval", "learned"))
    assert [found["latent_rel_l2"] for found in chosen] == [0.03, 0.04, 0.01, 0.02]


def test_the_title_has_the_setting_of_the_baseline(folder):
    fewer = row("fewer-steps", 1, 2.0, 0.01) | {"steps": 25}
    place = folder("a", row("baseline", 1, 1.0, 0.0), fewer)
    title = _title(by_seed_of([place], ("fewer-steps",)))
    assert title == "digits, attn, DDIM-50, guidance 2: 1 seeds x 64"


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([], "rows must hold an operating point"),
        ({}, r"rows must be a list such as \[a, b\]\. Got {}"),
        ([3], r"rows\[0\] must be keys with values\. Got 3"),
        ([row("learned", 1, 2.0, 0.01) | {"seed": 1.5}], r"rows\[0\]\.seed must be a whole number"),
        (
            [row("learned", 1, 2.0, 0.01) | {"guidance": None}],
            r"rows\[0\]\.guidance must be a n",
        ),
    ],
)
def test_rows_that_are_no_evaluations_are_named(folder, rows, line):
    place = folder("a")
    (place / "results.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=rf"results\.json: {line}"):
        by_seed_of([place])


def test_folders_of_different_settings_are_refused(folder):
    one = folder("a", row("learned", 1, 2.0, 0.01))
    other = folder("b", row("learned", 2, 2.0, 0.01, guidance=4.0))
    with pytest.raises(ValueError, match="folders must agree in model"):
        by_seed_of([one, other])


def test_a_frontier_lies_where_every_seed_has_points():
    by_seed = [
        [*sweep("learned", 1, 0.01, 0.01)],
        [row("learned", 2, 1.0, 0.03), row("learned", 2, 2.05, 0.03)],
    ]
    places = list(frontier_of(by_seed, "learned"))
    assert [round(flops, 1) for flops, _, _ in places] == [
        round(1.2 + 0.1 * i, 1) for i in range(9)
    ]
    for _, mean, half in places:
        assert mean == pytest.approx(0.02)
        # Half width by Student's t with one degree of freedom.
        assert half == pytest.approx(12.706 * 0.01, rel=1e-3)


def test_a_picture_is_the_same_twice(tmp_path):
    by_seed = [[row("baseline", 1, 1.0, 0.0), *sweep("learned", 1, 0.01, 0.02)]]
    for name in ("a", "b"):
        draw(by_seed, tmp_path / "new" / f"{name}.png")
    one, other = ((tmp_path / "new" / f"{name}.png").read_bytes() for name in ("a", "b"))
    assert one == other
