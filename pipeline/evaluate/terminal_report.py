"""Last lines of an evaluation on a terminal: errors at equal FLOPs, the decision, the links."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from pipeline.markdown import markdown_table
from pipeline.report.decision import SAVINGS, Decision
from pipeline.report.equal_flops import Estimate, estimate_at, nearest_point
from pipeline.report.figures import shown_error
from pipeline.report.frontier import frontier
from pipeline.report.rows import methods_of
from pipeline.tracking import Tracker
from pipeline.tracking.pages import address_of, charts_page, serving_command
from pipeline.tracking.saved_view import has_tested_page

Rows = list[dict[str, Any]]

CAPTION = """\
Relative L2 error of the final latent at equal FLOPs: mean ± half of its 95% interval, and the worst
sample of the operating point nearest to there. Smaller is better. "max 1.30x: 0.05": the largest
saving of a method that does not reach there, and its error. Images and all figures: report.html."""
WIDTH = 100
"""Characters of a line."""


def errors_table(rows: Rows) -> str:
    """Return a Markdown table of the errors at the savings of the report, 100 columns at most."""
    heads = ["method"]
    for target in SAVINGS:
        heads += [f"at {target:g}x fewer FLOPs", "worst sample"]
    names = sorted(methods_of(rows), key=lambda name: _order(rows, name))
    return markdown_table(heads, [[name, *_cells(rows, name)] for name in names])


def _order(rows: Rows, method: str) -> tuple[float, ...]:
    estimates = (estimate_at(rows, method, target) for target in SAVINGS)
    return tuple(float("inf") if one is None else one.error for one in estimates)


def _cells(rows: Rows, method: str) -> list[str]:
    cells = []
    for target in SAVINGS:
        near = nearest_point(rows, method, target)
        worst = None if near is None else near.latent_rel_l2_worst
        cells.append(_shown(estimate_at(rows, method, target)) or _largest(rows, method, target))
        cells.append("-" if worst is None else shown_error(worst))
    return cells


def _shown(estimate: Estimate | None) -> str:
    """Format an error with half of its interval; empty without an estimate."""
    if estimate is None:
        return ""
    half = "" if estimate.ci95 is None else f" ± {(estimate.ci95[1] - estimate.ci95[0]) / 2:.4f}"
    return f"{estimate.error:.4f}{half}"


def _largest(rows: Rows, method: str, target: float) -> str:
    """Format the point of the largest saving, if it lies below the target; else a dash."""
    saved, error = max(frontier(rows, method, "flops_ratio"), default=(math.inf, 0.0))
    return f"max {saved:.2f}x: {error:.4f}" if saved < target else "-"


def wrapped(text: str) -> str:
    """Return a text with its lines broken at the width of a terminal, but no command."""
    lines = text.splitlines()
    return "\n".join(textwrap.fill(line, WIDTH, break_on_hyphens=False) for line in lines)


def closing_lines(tracker: Tracker, experiment: str, decision: Decision, results: str) -> str:
    """Return the decision, and where to look at it.

    The link is left out while MLflow is away, which draws the id of the experiment.

    Args:
        tracker: tracker of the evaluation.
        experiment: key of the experiment with the comparison.
        decision: operating points to ship.
        results: path or URI of the results folder.
    """
    page = charts_page(tracker.id_of(experiment), has_view=has_tested_page())
    serve = serving_command(tracker.uri)
    lines = [wrapped(str(decision)), ""]
    if tracker.id_of(experiment) != experiment:
        lines.append(f"Comparison: {address_of(tracker.uri, page)}")
        lines += [] if serve is None else [f"            after: {serve}"]
    lines.append(f"Report:     {results.rstrip('/')}/report.html")
    commands = [choice.command for choice in decision.choices if choice.command]
    return "\n".join([*lines, *(f"Sample:     {command}" for command in commands[:1])])
