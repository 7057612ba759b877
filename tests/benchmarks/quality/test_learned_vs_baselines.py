"""Tables over seeds: means with Student's interval for the number of seeds."""

import pytest
from scipy.stats import t

from benchmarks.quality.learned_vs_baselines import errors_table, ratios_table


def rows_of(error, other_error):
    """Two methods on the same two points."""
    return [
        {"method": method, "reuse_ratio": ratio, "flops_ratio": 4 * ratio, "latent_rel_l2": value}
        for method, value in (("learned", error), ("interval", other_error))
        for ratio in (0.25, 0.75)
    ]


@pytest.mark.parametrize("errors", [(0.01, 0.02), (0.01, 0.02, 0.03), (0.01, 0.01, 0.02, 0.04)])
def test_a_cell_is_the_mean_with_students_interval(errors):
    lines = errors_table([rows_of(error, 0.1) for error in errors]).splitlines()
    mean = sum(errors) / len(errors)
    low, high = t.interval(
        0.95,
        len(errors) - 1,
        loc=mean,
        scale=(sum((e - mean) ** 2 for e in errors) / (len(errors) - 1) / len(errors)) ** 0.5,
    )
    learned = next(line for line in lines if line.startswith("| learned"))
    assert f" {mean:.4f} ± {(high - low) / 2:.4f} |" in learned


def test_one_seed_has_no_interval_and_a_place_beyond_the_sweep_no_cell():
    lines = errors_table([rows_of(0.01, 0.02)]).splitlines()
    cells = lines[2].split(" | ")
    assert cells[2].strip() == "0.0100 ± 0.0000"
    assert cells[-1].startswith("-")


def test_ratios_are_of_mean_errors():
    lines = ratios_table([rows_of(0.01, 0.02), rows_of(0.02, 0.10)]).splitlines()
    cells = [cell.strip() for cell in lines[2].split("|")]
    assert cells[1:5] == ["interval", "0.25x", "0.25x", "0.25x"]
