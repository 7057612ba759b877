"""Figures of an evaluated policy for the registry, and which other policies it has beaten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.report.decision import SAVINGS
from pipeline.report.equal_flops import estimate_at, nearest_point, paired_difference
from pipeline.report.figures import shown_error, shown_interval
from pipeline.report.rows import ReportRow
from pipeline.statistics import Spread

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyFigures:
    """Operating points of a policy at the savings of the report."""

    method: str
    """Method name of the policy's rows."""
    points: dict[float, ReportRow]
    """Operating point near each FLOPs ratio; ratios that the policy does not reach are left out."""

    @classmethod
    def of(cls, rows: Rows, method: str) -> PolicyFigures:
        """Return the figures of a policy."""
        near = {target: nearest_point(rows, method, target) for target in SAVINGS}
        points = {target: point for target, point in near.items() if point is not None}
        return cls(method=method, points=points)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the registered version: settings, and errors at the savings."""
        tags = {
            f"rel_l2_at_{target:g}x_fewer_flops": shown_error(point.latent_rel_l2)
            for target, point in self.points.items()
        }
        first = next(iter(self.points.values()), None)
        for name in ("model", "sampler", "steps", "guidance", "sites", "num_samples"):
            if first is not None and getattr(first, name) is not None:
                tags[name] = str(getattr(first, name))
        return tags

    @property
    def markdown(self) -> str:
        """Table of the errors in Markdown."""
        lines = [
            "| FLOPs ratio | relative L2 error | 95% interval | 90th percentile | worst sample |",
            "|---|---|---|---|---|",
        ]
        for point in self.points.values():
            interval = point.latent_rel_l2_ci95
            cells = (
                f"{point.flops_ratio:.2f}",
                shown_error(point.latent_rel_l2),
                "-" if interval is None else shown_interval(interval),
                *(
                    "-" if value is None else shown_error(value)
                    for value in (point.latent_rel_l2_p90, point.latent_rel_l2_worst)
                ),
            )
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def is_beaten(rows: Rows, method: str, other: str) -> bool:
    """Return True if a policy has the smaller error than another one, beyond chance.

    At each saving of the report that the other policy reaches, and at one at least, the 95%
    interval of the paired difference of the errors must lie below 0. All rows are measured on noise
    samples that neither training nor calibration has used.
    """
    reached = [one for one in SAVINGS if nearest_point(rows, other, one) is not None]
    found = [_difference(rows, method, other, target) for target in reached]
    return bool(found) and all(
        one is not None and one.ci95 is not None and one.ci95[1] < 0 for one in found
    )


def _difference(rows: Rows, method: str, other: str, target: float) -> Spread | None:
    point = nearest_point(rows, method, target)
    theirs = None if point is None else estimate_at(rows, other, point.flops_ratio)
    if point is None or theirs is None:
        return None
    return paired_difference(point, theirs)
