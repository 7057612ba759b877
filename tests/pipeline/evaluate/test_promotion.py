"""Promotion of policies: paired errors at equal FLOPs decide."""

import pytest

from pipeline.evaluate.promotion import PolicyFigures, is_beaten


def row(method, flops_ratio, errors, **columns):
    return {
        "method": method,
        "operating_point": f"flops={flops_ratio}",
        "flops_ratio": flops_ratio,
        "latent_rel_l2": sum(errors) / len(errors),
        "latent_rel_l2_samples": errors,
        **columns,
    }


BASE = [0.010, 0.012, 0.008, 0.030, 0.011, 0.009]
SMALLER = [0.9 * error for error in BASE]
NOISY = [0.001, 0.050, 0.002, 0.020, 0.003, 0.001]


@pytest.mark.parametrize(
    ("at_2", "at_3", "expected"),
    [
        (SMALLER, SMALLER, True),
        (SMALLER, BASE, False),
        (BASE, BASE, False),
        # A smaller mean whose paired interval holds 0.
        (NOISY, NOISY, False),
    ],
)
def test_every_saving_must_show_a_smaller_error(at_2, at_3, expected):
    rows = [row("learned", 2.0, BASE), row("learned", 3.0, BASE)]
    rows += [row("learned-new", 2.0, at_2), row("learned-new", 3.0, at_3)]
    assert is_beaten(rows, "learned-new", "learned") is expected
    assert not is_beaten(rows, "learned", "learned-new")
    assert not is_beaten(rows, "learned", "learned")


def test_a_saving_that_the_other_policy_reaches_must_be_won_too():
    larger = [2 * error for error in BASE]
    rows = [row("learned", 2.0, BASE), row("learned", 3.0, larger)]
    rows += [row("learned-new", 2.0, SMALLER), row("learned-small", 2.0, larger)]
    assert not is_beaten(rows, "learned-new", "learned")
    # A policy that reaches 2x alone is beaten there.
    assert is_beaten(rows, "learned", "learned-small")


def test_without_equal_flops_or_errors_of_samples_nothing_is_beaten():
    rows = [row("learned", 2.0, BASE), row("learned-new", 5.0, SMALLER)]
    assert not is_beaten(rows, "learned-new", "learned")
    rows = [row("learned", 2.0, BASE), row("learned-new", 2.0, SMALLER)]
    del rows[0]["latent_rel_l2_samples"]
    assert not is_beaten(rows, "learned-new", "learned")


def test_figures_are_those_of_the_points_near_the_savings():
    rows = [
        row("learned", 2.1, [0.01, 0.03], model="digits", steps=50, latent_rel_l2_p90=0.028),
        row("learned", 9.0, [0.5, 0.5]),
    ]
    figures = PolicyFigures.of(rows, "learned")
    assert figures.tags == {"rel_l2_at_2x_fewer_flops": "0.0200", "model": "digits", "steps": "50"}
    assert "| 2.10 | 0.0200 | - | 0.0280 | - |" in figures.markdown
