"""Choice of the schedule to ship at each saving, with the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.report.choice import Choice, Verdict
from pipeline.report.decision_text import headline, markdown, sentence
from pipeline.report.equal_flops import (
    Estimate,
    achieved_at,
    estimate_at,
    nearest_point,
    paired_difference,
)
from pipeline.report.rows import ReportRow, methods_of, role_of
from pipeline.report.sampling_command import sampling_command
from pipeline.statistics import Spread

SAVINGS = (2.0, 3.0)
"""FLOPs ratios at which a schedule is chosen."""
RESULTS = "RESULTS"
"""Results folder in the commands, where the caller names none."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The operating points to ship. ``str`` gives plain text, :attr:`markdown` Markdown."""

    choices: tuple[Choice, ...]
    """A choice for each of :data:`SAVINGS`."""

    @property
    def headline(self) -> str:
        """The decision in one sentence."""
        return headline(self.choices)

    @property
    def markdown(self) -> str:
        """The decision, its evidence and the commands in Markdown."""
        return markdown(self.choices)

    def __str__(self) -> str:
        return "\n".join([self.headline, *map(sentence, self.choices)])


def decide(rows: Rows, results: str = RESULTS) -> Decision:
    """Choose the operating points to ship from the rows of an evaluation.

    Args:
        rows: rows of results.json.
        results: results folder, for the commands that sample with the chosen plans.
    """
    return Decision(choices=tuple(_choice(rows, target, results) for target in SAVINGS))


def _choice(rows: Rows, target: float, results: str) -> Choice:
    near = {name: nearest_point(rows, name, target) for name in methods_of(rows)}
    points = {name: point for name, point in near.items() if point is not None}
    learned = {name: point for name, point in points.items() if role_of(name) == "subject"}
    compared = _most_accurate(rows, target, learned or points)
    other = None if compared is None else _best_other(rows, compared, bool(learned))
    difference = paired_difference(compared, other) if compared and other else None
    verdict = _verdict(compared, other, difference) if compared and other else None
    shipped = compared
    if compared and other and verdict != "better" and other.error < compared.latent_rel_l2:
        shipped = points.get(other.method) or other.rows[-1]
    return Choice(
        target=target,
        row=shipped,
        compared=compared,
        is_learned=bool(learned),
        has_policy=any(role_of(name) == "subject" for name in near),
        other=other,
        difference=difference,
        verdict=verdict,
        command=None if shipped is None else sampling_command(shipped, results),
    )


def _most_accurate(rows: Rows, target: float, points: dict[str, ReportRow]) -> ReportRow | None:
    """Return the point of the method with the smallest error at the saving itself, interpolated
    where it can be: the points differ a little in their savings."""

    def error(point: ReportRow) -> float:
        there = estimate_at(rows, point.method, target)
        return point.latent_rel_l2 if there is None else there.error

    return min(points.values(), key=error, default=None)


def _best_other(rows: Rows, compared: ReportRow, is_learned: bool) -> Estimate | None:
    names = [
        name
        for name in methods_of(rows)
        if name != compared.method and not (is_learned and role_of(name) == "subject")
    ]
    found = [achieved_at(rows, name, compared.flops_ratio) for name in names]
    return min((one for one in found if one), key=lambda one: one.error, default=None)


def _verdict(compared: ReportRow, other: Estimate, difference: Spread | None) -> Verdict:
    if difference is not None and difference.ci95 is not None:
        low, high = difference.ci95
    elif compared.latent_rel_l2_ci95 and other.ci95:
        low = compared.latent_rel_l2_ci95[0] - other.ci95[1]
        high = compared.latent_rel_l2_ci95[1] - other.ci95[0]
    else:
        return "tie"
    return "better" if high < 0 else "worse" if low > 0 else "tie"
