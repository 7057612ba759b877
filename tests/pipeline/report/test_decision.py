"""Decision: the learned schedule against the best other method at the FLOPs of the learned one."""

import pytest

from pipeline.report.decision import decide
from pipeline.report.equal_flops import estimate_at, paired_difference
from pipeline.report.rows import ReportRow
from tests.pipeline.report.made_up_results import around, learned, row

BASELINE = row("baseline", 1.0, 0.0, reuse_ratio=0.0)


def interval(error):
    return [row("interval", 1.5, error(0.5)), row("interval", 4.0, error(0.5))]


def at_2x(rows):
    return decide([BASELINE, *rows], "runs/results").choices[0]


def test_a_better_learned_schedule_is_shipped_with_its_plan():
    choice = at_2x([learned(2.0, around(0.01)), *interval(lambda _: around(0.02))])
    assert (choice.verdict, choice.row, choice.is_learned) == ("better", choice.compared, True)
    assert choice.difference is not None
    assert choice.difference.mean == pytest.approx(-0.01)
    # Student's t: 2.776 standard errors of -0.01 * (0.8, 0.9, 1, 1.1, 1.2).
    assert choice.difference.half_width == pytest.approx(
        2.7764 * 0.01 * 0.158114 / 5**0.5, rel=1e-4
    )
    assert choice.command == (
        "python jobs/sample.py --model digits --plan "
        "runs/results/plans/learned-policy-5-order-0-feedback-0.json --guidance-scale 2 "
        "--out runs/samples"
    )


@pytest.mark.parametrize(
    ("shift", "verdict", "shipped"),
    [(-0.0001, "tie", "learned"), (0.0001, "tie", "interval"), (0.01, "worse", "interval")],
)
def test_ties_and_losses_are_said(shift, verdict, shipped):
    # The differences of the samples are shift - 0.001, ..., shift + 0.001.
    mine = [0.02 + shift + 0.001 * sign for sign in (-1, 1, -1, 1)]
    choice = at_2x([learned(2.0, mine), *interval(lambda _: [0.02] * 4)])
    assert choice.row is not None
    assert (choice.verdict, choice.row.method) == (verdict, shipped)
    text = str(decide([BASELINE, learned(2.0, mine), *interval(lambda _: [0.02] * 4)]))
    assert ("no difference" in text) == (verdict == "tie")
    if verdict == "worse":
        assert "The best learned schedule" in text
        assert "paired difference -0.0100" in text
        assert choice.command is None


def test_the_other_method_is_interpolated_at_the_flops_of_the_learned_one():
    rows = [learned(2.1, 0.1), row("interval", 2.0, 0.01), row("interval", 2.2, 0.04)]
    choice = at_2x(rows)
    assert choice.other is not None
    assert choice.other.error == pytest.approx(0.02)
    assert choice.other.flops_ratio == 2.1


def test_a_method_measured_at_larger_savings_alone_counts_with_its_error_there():
    rows = [learned(2.0, 0.01), row("interval", 2.2, 0.015), row("smoothcache", 2.0, 0.02)]
    other = at_2x(rows).other
    assert other is not None
    assert (other.method, other.flops_ratio, other.error) == ("interval", 2.2, 0.015)


def test_contributions_of_samples_have_the_interpolated_mean():
    rows = [row("interval", 2.0, [0.01, 0.03]), row("interval", 3.0, [0.06, 0.02])]
    there = estimate_at(rows, "interval", 2.5)
    assert there is not None
    assert there.samples is not None
    assert (
        sum(there.samples) / 2 == pytest.approx(there.error) == pytest.approx((0.02 * 0.04) ** 0.5)
    )
    assert there.samples[0] == pytest.approx(there.error * (0.5 * 0.5 + 0.5 * 1.5))


def test_results_without_samples_compare_intervals():
    apart = {"latent_rel_l2_ci95": [0.009, 0.011]}
    other = {"latent_rel_l2_ci95": [0.018, 0.022]}
    rows = [learned(2.0, 0.01, **apart), row("interval", 2.0, 0.02, **other)]
    choice = at_2x(rows)
    assert (choice.verdict, choice.difference) == ("better", None)
    assert "the 95% intervals do not overlap" in str(decide(rows))
    assert "paired" not in str(decide(rows))
    rows[1]["latent_rel_l2_ci95"] = [0.0105, 0.03]
    assert at_2x(rows).verdict == "tie"


def test_results_without_intervals_are_a_tie():
    rows = [learned(2.0, 0.01), row("interval", 2.0, 0.02)]
    assert at_2x(rows).verdict == "tie"
    assert "without intervals" in str(decide(rows))


def test_other_numbers_of_samples_are_not_paired():
    other = estimate_at([row("interval", 2.0, [0.02, 0.03])], "interval", 2.0)
    assert other is not None
    assert paired_difference(ReportRow.of(learned(2.0, [0.01, 0.02, 0.03])), other) is None


def test_a_point_that_saves_more_with_less_error_is_shipped_in_its_place():
    choice = at_2x([learned(2.0, 0.02), learned(4.0, 0.01), row("interval", 2.0, 0.015)])
    assert choice.row is not None
    assert choice.row.flops_ratio == 4.0


def test_without_a_policy_the_most_accurate_method_is_shipped():
    fewer = row("fewer-steps", 2.0, 0.01, reuse_ratio=0.0, steps=5)
    decision = decide([BASELINE, fewer, row("interval", 2.0, 0.02)])
    choice = decision.choices[0]
    assert choice.row is not None
    assert (choice.row.method, choice.is_learned) == ("fewer-steps", False)
    assert "no learned schedule was evaluated" in decision.headline
    assert choice.command == (
        "python jobs/sample.py --model digits --no-reuse --steps 5 --sampler ddim "
        "--guidance-scale 2 --out runs/samples"
    )


def test_one_method_alone_has_nothing_to_compare():
    decision = decide([BASELINE, learned(2.0, 0.01)])
    assert decision.choices[0].verdict is None
    assert "nothing to compare it with" in decision.headline
    assert decision.choices[1].row is None
    assert "no method was measured at 3x" in decision.headline


def test_a_saving_that_no_learned_point_reaches_is_said():
    text = str(decide([BASELINE, learned(2.0, 0.01), row("interval", 3.0, 0.02)]))
    assert "At 3x fewer FLOPs ship interval" in text
    assert "No learned schedule was measured near this saving." in text


@pytest.mark.parametrize("rows", [[], [BASELINE], [row("interval", 1.1, 0.01)]])
def test_nothing_near_is_no_recommendation(rows):
    decision = decide(rows)
    assert decision.headline.startswith("No schedule can be recommended")
    assert all(choice.row is None and choice.command is None for choice in decision.choices)


def test_the_best_of_several_learned_methods_is_compared():
    rows = [learned(2.0, 0.02), learned(2.05, 0.01, method="learned-wide")]
    choice = at_2x([*rows, row("interval", 2.05, 0.03)])
    assert choice.compared is not None
    assert choice.other is not None
    assert (choice.compared.method, choice.other.method) == ("learned-wide", "interval")


def test_markdown_escapes_names_and_holds_the_command():
    rows = [learned(2.0, 0.01, method="learned-<script>_a", model="my model")]
    text = decide(rows).markdown
    assert text.startswith("**Ship learned-\\<script\\>\\_a at 2.00x fewer FLOPs")
    assert "--model 'my model' --plan" in text
