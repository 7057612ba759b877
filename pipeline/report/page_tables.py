"""Tables of the page, with the unrounded number behind each figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.report.equal_flops import achieved_at, estimate_at
from pipeline.report.figures import shown_error, shown_interval
from pipeline.report.rows import ReportRow, methods_of

COMPARED = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
"""FLOPs ratios of the table of errors at equal FLOPs, as far as methods reach."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of a table."""

    text: str
    value: float | None = None
    """The number that :attr:`text` rounds; None for text."""
    detail: str = ""
    """Smaller text behind the figure, such as its interval."""
    is_best: bool = False
    """True for the smallest error that any method achieves with no more FLOPs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataTable:
    """Headings, and the cells of each row."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One setting of the evaluation."""

    name: str
    value: str


MISSING = Cell(text="-")

Column = tuple[str, str, Callable[[float], str]]
COLUMNS: tuple[Column, ...] = (
    ("FLOPs x", "flops_ratio", "{:.2f}".format),
    ("relative L2", "latent_rel_l2", shown_error),
    ("90th percentile", "latent_rel_l2_p90", shown_error),
    ("worst", "latent_rel_l2_worst", shown_error),
    ("to solution", "solution_rel_l2", shown_error),
    ("reuse", "reuse_ratio", "{:.3f}".format),
    ("PSNR dB", "psnr", "{:.1f}".format),
    ("SSIM", "ssim", "{:.4f}".format),
    ("FID", "fid", "{:.2f}".format),
    ("speed-up x", "speedup", "{:.2f}".format),
)
"""Columns of the table of operating points: heading, column of results.json, format. Columns that
no row has are left out."""


def points_table(rows: Rows) -> DataTable:
    """Return the table of all operating points."""
    read = [ReportRow.of(row) for row in rows]
    columns = [one for one in COLUMNS if any(getattr(row, one[1]) is not None for row in read)]
    return DataTable(
        heads=("method", "operating point", *(head for head, _, _ in columns)),
        rows=tuple(
            (
                Cell(text=row.method),
                Cell(text=row.operating_point),
                *(_cell(row, name, form) for _, name, form in columns),
            )
            for row in read
        ),
    )


def _cell(row: ReportRow, name: str, form: Callable[[float], str]) -> Cell:
    value = getattr(row, name)
    if value is None:
        return MISSING
    interval = row.latent_rel_l2_ci95 if name == "latent_rel_l2" else None
    return Cell(text=form(value), value=value, detail=shown_interval(interval) if interval else "")


def equal_flops_table(rows: Rows) -> DataTable:
    """Return the table of errors at equal FLOPs; the smallest error is marked."""
    names = methods_of(rows)
    found = {value: [estimate_at(rows, name, value) for name in names] for value in COMPARED}
    reached = {value: column for value, column in found.items() if any(column)}
    columns = []
    for value, column in reached.items():
        # A method that is measured at larger savings alone may have a smaller error there.
        achieved = [achieved_at(rows, name, value) for name in names]
        best = min(one.error for one in achieved if one)
        columns.append(
            [
                Cell(
                    text=shown_error(one.error),
                    value=one.error,
                    detail=shown_interval(one.ci95) if one.ci95 else "",
                    is_best=one.error == best,
                )
                if one
                else MISSING
                for one in column
            ]
        )
    return DataTable(
        heads=("method", *(f"{value:g}x" for value in reached)),
        rows=tuple(
            (Cell(text=name), *(column[index] for column in columns))
            for index, name in enumerate(names)
        ),
    )


FACTS = (
    ("Model", "model"),
    ("Sampler", "sampler"),
    ("Guidance", "guidance"),
    ("Sites", "sites"),
    ("Samples per operating point", "num_samples"),
    ("Seed of the noise", "seed"),
    ("Arithmetic", "dtype"),
    ("Device", "device"),
)
"""Settings of an evaluation: name, column of results.json."""


SPENT = (
    ("Calibration trajectories", "calibration_trajectories"),
    ("Model evaluations of tuning", "tuning_evaluations"),
)
"""Facts on what methods spent to choose their points: title, column of results.json."""


def facts_of(rows: Rows) -> tuple[Fact, ...]:
    """Return the settings of the reference samples, and the calibration that methods spent."""
    if not rows:
        return ()
    first = ReportRow.of(rows[0])
    facts = [
        Fact(name=name, value=str(getattr(first, column)))
        for name, column in FACTS
        if getattr(first, column) is not None
    ]
    if first.steps is not None:
        facts.insert(2, Fact(name="Sampling steps", value=str(first.steps)))
    for title, column in SPENT:
        spent = {row["method"]: row.get(column) for row in rows}
        if tuned := [f"{name} {count}" for name, count in spent.items() if count]:
            facts.append(Fact(name=title, value=", ".join(tuned)))
    return tuple(facts)
