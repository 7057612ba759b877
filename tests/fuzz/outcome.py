"""Outcomes of fuzzing cases: what a job's ending means."""

from __future__ import annotations

import re
from typing import Literal

from pipeline.flags.values import is_printable
from tests.fuzz.cases import Case
from tests.fuzz.forked_job import ACCEPTED, UNUSABLE, Ending

Outcome = Literal["refused", "accepted", "wrong silently", "traceback", "hang", "memory"]
BAD: tuple[Outcome, ...] = ("wrong silently", "traceback", "hang", "memory")
HELP = 0
"""Exit code after --help."""
LONGEST = 1500
"""Characters of a refusal; a longer one is a listing."""
INTERNAL = re.compile(r"self\.|<class |object at 0x|Traceback|\b\w+Error\(")
"""Words of a refusal that mean something to Python alone."""


def outcome_of(case: Case, ending: Ending) -> tuple[Outcome, str]:
    """Return the outcome of a case, and why it is a bad one."""
    if ending.code == ACCEPTED:
        return ("wrong silently", "accepted") if case.is_damaged else ("accepted", "")
    if ending.code == HELP:
        return "accepted", ""
    if ending.code == 124 or ending.code in (-24, -9):
        return "hang", f"stopped after {ending.seconds:.0f} s"
    if "MemoryError" in ending.stderr or "not enough memory" in ending.stderr:
        return "memory", ending.stderr[-300:]
    if ending.code == UNUSABLE:
        return "wrong silently", ending.stderr[-300:]
    if ending.code != 2:
        return "traceback", f"exit code {ending.code}: {ending.stderr[-900:]}"
    if complaint := complaint_of(case.job, ending):
        return "traceback", f"{complaint}: {ending.stderr[:600]!r}"
    return "refused", ""


def complaint_of(job: str, ending: Ending) -> str:
    """Say what a refusal lacks: one line that names the job and ends with a fix, nothing left."""
    line = ending.stderr.removesuffix("\n")
    if ending.left:
        return f"refused, and left {', '.join(ending.left)}"
    if not line.startswith(f"{job}.py"):
        return "the refusal must begin with the job"
    if "\n" in line or not is_printable(line):
        return "the refusal must be one printable line"
    if len(line) > LONGEST:
        return f"the refusal must be shorter than its {len(line)} characters"
    if INTERNAL.search(line):
        return "the refusal must not speak of Python"
    if line[-1:] not in ".?" or line.count(". ") + line.count("? ") < 1:
        return "the refusal must end with a fix"
    return ""
