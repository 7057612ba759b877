"""Command line of jobs/sample.py that samples as an operating point of an evaluation did."""

from __future__ import annotations

import shlex
from dataclasses import asdict

from pipeline.report.plan_files import path_of
from pipeline.report.rows import ReportRow

SAMPLES = "runs/samples"
"""Folder that the command writes."""


def sampling_command(row: ReportRow, results: str) -> str | None:
    """Return the command, or None for a point that jobs/sample.py cannot sample.

    It samples plans, and with ``--no-reuse`` fewer steps. The guidance is given, since a plan's
    file does not hold it.

    Args:
        row: operating point.
        results: folder of the results, which holds the plans.
    """
    if row.model is None or not (how := _reuse_flags(row, results)):
        return None
    words = ["python", "jobs/sample.py", "--model", row.model, *how]
    if row.guidance is not None:
        words += ["--guidance-scale", f"{row.guidance:g}"]
    return shlex.join([*words, "--out", SAMPLES])


def _reuse_flags(row: ReportRow, results: str) -> list[str]:
    plan = path_of(asdict(row))
    if plan is not None:
        return ["--plan", f"{results.rstrip('/')}/{plan}"]
    if row.reuse_ratio == 0 and row.steps is not None:
        sampler = [] if row.sampler is None else ["--sampler", row.sampler]
        return ["--no-reuse", "--steps", str(row.steps), *sampler]
    return []


def over_lines(command: str) -> str:
    """Return a command with each flag on a line of its own, as a shell reads it."""
    lines, words = [], shlex.split(command)
    for word in words:
        if word.startswith("--") or not lines:
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join(lines)
