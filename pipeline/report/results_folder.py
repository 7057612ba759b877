"""Page in a results folder: written by an evaluation, or drawn again from the files there."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dqar.foreign_files import read_json
from dqar.schedules.serialization import load_plan
from dqar.schedules.static_plan import StaticPlan
from dqar.validation import validate
from pipeline.errors import InputError, input_errors
from pipeline.redaction import without_secrets
from pipeline.report.decision import RESULTS
from pipeline.report.page import WIDE, Measured, page_of, split_plans
from pipeline.report.plan_files import path_of
from pipeline.report.render import render
from pipeline.report.reuse_map import reuse_map_svg
from pipeline.report.rows import ReportRow
from pipeline.report.sample_strips import Images

PAGE, MAP, ORIGIN = "report.html", "reuse_map.svg", "evaluation.json"
"""Files of a results folder: the page, the heat maps of the plans to ship, and the origin."""
ROWS = "results.json"
FIX = "Pass a results folder of jobs/evaluate.py."
NO_IMAGES = np.zeros((0, 1, 1, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Title and command of an evaluation, as evaluation.json holds them."""

    title: str
    command: str
    notes: tuple[str, ...] = ()
    """Paragraphs on how to read the rows of some methods."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPoint:
    """Operating point of a results folder, which stores no images."""

    row: dict[str, Any]
    plan: StaticPlan | None
    images: Images
    reference_images: Images


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRows:
    """Rows of results.json, at least one."""

    rows: tuple[ReportRow, ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("rows must hold an operating point. Got none. Evaluate again.")


def write_page(
    measured: Sequence[Measured], folder: Path, title: str, notes: Sequence[str] = ()
) -> None:
    """Write report.html, reuse_map.svg if there are plans, and evaluation.json.

    Args:
        measured: operating points.
        folder: results folder.
        title: heading of the page.
        notes: paragraphs on how to read the rows of some methods.
    """
    command = running_command(sys.argv)
    origin = Origin(title=title, command=command, notes=tuple(notes))
    text = json.dumps({"title": title, "command": command, "notes": origin.notes}, indent=1)
    (folder / ORIGIN).write_text(without_secrets(text) + "\n", encoding="utf-8")
    _write(measured, folder, origin, results_of(command) or RESULTS)


def _write(measured: Sequence[Measured], folder: Path, origin: Origin, results: str) -> None:
    page = page_of(
        measured, title=origin.title, command=origin.command, results=results, notes=origin.notes
    )
    (folder / PAGE).write_text(render(page), encoding="utf-8")
    (folder / MAP).unlink(missing_ok=True)
    shipped, others = split_plans(measured, page.decision)
    if plans := [*shipped, *others]:
        (folder / MAP).write_text(reuse_map_svg(plans, width=WIDE, is_file=True), encoding="utf-8")


def running_command(arguments: Sequence[str]) -> str:
    """Return the command line of this process, without passwords in URIs.

    Args:
        arguments: ``sys.argv``. A program below the working directory is named from there.
    """
    program = os.path.relpath(arguments[0] or "-")
    program = Path(program).name if program.startswith("..") else program
    return without_secrets(shlex.join(["python", program, *arguments[1:]]))


def results_of(command: str) -> str | None:
    """Return the value of ``--out`` in a command; None without it."""
    words = shlex.split(command)
    for index, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == "--out" and (equals or index + 1 < len(words)):
            return value if equals else words[index + 1]
    return None


def draw_again(folder: Path) -> Path:
    """Draw the page of a results folder from its rows and plans, and return its path.

    Raises:
        InputError: one line, if a file of the folder is missing or damaged.
    """
    with input_errors():
        measured = [_stored_point(row, folder) for row in read_rows(folder)]
        origin = _read_origin(folder, measured)
    _write(measured, folder, origin, str(folder))
    return folder / PAGE


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of results.json, with the columns that the page shows checked.

    Raises:
        InputError: one line that names the file, the row and the column that is wrong.
    """
    path = folder / ROWS
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} must be an evaluation's JSON. Got: {error}. {FIX}") from error
    validate({"rows": rows}, StoredRows, name=str(path), fix=FIX)
    return rows


def _stored_point(row: dict[str, Any], folder: Path) -> StoredPoint:
    path = path_of(row)
    has_plan = path is not None and (folder / path).exists()
    return StoredPoint(
        row=row,
        plan=load_plan(folder / path) if path is not None and has_plan else None,
        images=NO_IMAGES,
        reference_images=NO_IMAGES,
    )


def _read_origin(folder: Path, measured: Sequence[Measured]) -> Origin:
    """Return the origin; results of earlier releases have none."""
    path = folder / ORIGIN
    if path.exists():
        stored = read_json(path, what="an evaluation", fix=FIX, max_bytes=2**20)
        return validate(stored, Origin, name=str(path), fix=FIX)
    first = measured[0].row
    return Origin(title=f"Evaluation of {first.get('model', 'a model')}", command="")
