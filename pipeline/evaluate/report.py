"""Results folder of an evaluation: results.json, report.md, report.html, plots and the plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluate.plan_export import write_plans
from pipeline.evaluate.points_file import write_points
from pipeline.evaluate.tasks import PointResult
from pipeline.markdown import markdown_table
from pipeline.methods import registry
from pipeline.report.frontier import Axis, error_at, frontier
from pipeline.report.results_folder import write_page
from pipeline.storage.unfinished_folder import written_last

COLUMNS = (
    ("reuse", "reuse_ratio", "{:.3f}"),
    ("FLOPs x", "flops_ratio", "{:.2f}"),
    ("speedup x", "speedup", "{:.2f}"),
    ("bound x", "speedup_bound", "{:.2f}"),
    ("rel L2", "latent_rel_l2", "{:.4f}"),
    ("to solution", "solution_rel_l2", "{:.4f}"),
    ("PSNR dB", "psnr", "{:.1f}"),
    ("SSIM", "ssim", "{:.4f}"),
    ("FID", "fid", "{:.3f}"),
    ("tuning", "tuning_evaluations", "{:,}"),
)
"""Columns of the table of operating points: heading, column of results.json, format."""
POINTS_CAPTION = """\
Each row is one operating point, a method at one setting, measured on the same noise samples. Errors
are against the reference samples: the same noise, labels and sampler without reuse.

- reuse: share of the (step, layer, site, sample) decisions that reused.
- FLOPs x: FLOPs of the reference samples / FLOPs of the method; 2 is half the work.
- speedup x: time of the reference samples / time of the method, first batch; above 1 is faster.
- bound x: the largest speedup that this reuse allows on this device, if reuse itself cost nothing.
- rel L2: relative L2 error of the final latent, mean over samples; smaller is better.
- to solution: relative L2 distance to the solution of the same noise by --solution-steps.
- PSNR dB, SSIM: of the images against the reference images; larger is better.
- FID: of the images against real images; smaller is better.
- tuning: guided model evaluations that all points of the method took to choose, references and
  exploration included.
- A dash: not measured."""
COMPARISON_CAPTION = """\
Relative L2 error of each method at equal reuse, and at equal FLOPs (FLOPs x 2 is half the FLOPs of
the reference samples); smaller is better. Between two operating points of a method the log error is
interpolated linearly. A dash: the operating points of the method do not reach there."""
AXIS_LABELS = {
    "reuse_ratio": "share of decisions that reused",
    "flops_ratio": "FLOPs of the reference / FLOPs of the method",
    "speedup": "time of the reference / time of the method",
}
"""Axis labels of frontier.png by column of results.json."""
COMPARED_AT: dict[Axis, tuple[float, ...]] = {
    "reuse_ratio": (0.3, 0.5, 0.7),
    "flops_ratio": (1.1, 2.0, 3.0, 4.0),
}
"""Savings at which the methods are compared; savings that no method reaches are left out."""


def write_report(measured: list[PointResult], folder: Path, title: str) -> None:
    """Write ``results.json``, ``report.md``, ``frontier.png``, ``samples.png``, ``plans/`` and the
    web page (:func:`pipeline.report.results_folder.write_page`)."""
    rows = [result.row for result in measured]
    with written_last(folder / "results.json", rows):
        plot_frontier(rows, folder / "frontier.png")
        plot_samples(measured, folder / "samples.png")
        write_points(rows, folder)
        parts = [f"# {title}", POINTS_CAPTION, points_table(rows)]
        parts += [COMPARISON_CAPTION, comparison_table(rows)]
        parts += filter(None, [*_notes(rows), write_plans(measured, folder)])
        (folder / "report.md").write_text("\n\n".join(parts).rstrip() + "\n")
        write_page(measured, folder, title, _notes(rows))


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    present = {registry.method_of(row["method"]) for row in rows}
    return [method.note for method in registry.METHODS if method in present and method.note]


def points_table(rows: list[dict[str, Any]]) -> str:
    """Return a markdown table with one row for each operating point (:data:`POINTS_CAPTION`)."""
    is_solved = any(row.get("solution_rel_l2") is not None for row in rows)
    columns = [one for one in COLUMNS if is_solved or one[1] != "solution_rel_l2"]
    heads = ["method", "operating point", *(head for head, _, _ in columns)]
    body = [
        [
            row["method"],
            row["operating_point"],
            *(_shown(row, key, form) for _, key, form in columns),
        ]
        for row in rows
    ]
    return markdown_table(heads, body)


def comparison_table(rows: list[dict[str, Any]]) -> str:
    """Return a markdown table of errors at equal savings (:data:`COMPARISON_CAPTION`)."""
    names = _compared(rows)
    heads, columns = ["rel L2 at"], []
    for axis, values in COMPARED_AT.items():
        for value in values:
            found = [error_at(rows, name, axis, value) for name in names]
            if any(error is not None for error in found):
                label = "reuse" if axis == "reuse_ratio" else "FLOPs x"
                heads.append(f"{label} {value:g}")
                columns.append(["-" if error is None else f"{error:.4f}" for error in found])
    body = [[name, *(column[index] for column in columns)] for index, name in enumerate(names)]
    return markdown_table(heads, body)


def _compared(rows: list[dict[str, Any]]) -> list[str]:
    """Return the method names of the rows without the baseline, each once."""
    names = dict.fromkeys(row["method"] for row in rows)
    return [name for name in names if registry.method_of(name).role != "reference"]


def _shown(row: dict[str, Any], key: str, form: str) -> str:
    value = row.get(key)
    return "-" if value is None else form.format(value)


def plot_frontier(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the error against reuse, FLOPs ratio and speed-up: points and each method's frontier."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5), layout="constrained")
    panels = figure.subplots(1, 3)
    names = _compared(rows)
    for panel, axis in zip(panels, ("reuse_ratio", "flops_ratio", "speedup"), strict=True):
        for index, name in enumerate(names):
            mine = [row for row in rows if row["method"] == name]
            color = f"C{index}"
            panel.scatter(
                [row[axis] for row in mine],
                [row["latent_rel_l2"] for row in mine],
                s=16,
                color=color,
                label=name,
            )
            if axis != "speedup" and (edge := frontier(rows, name, axis)):
                panel.plot(*zip(*edge, strict=True), color=color, linewidth=1)
        panel.set(xlabel=AXIS_LABELS[axis], ylabel="relative L2 error of the latent", yscale="log")
        panel.grid(alpha=0.3)
    if names:
        panels[0].legend()
    figure.savefig(path, dpi=120)


def plot_samples(measured: list[PointResult], path: Path) -> None:
    """Plot the reference images above the images of one operating point of each method.

    The point is the one nearest to :attr:`pipeline.methods.base.Method.shown_at`.
    """
    from matplotlib.figure import Figure

    names = _compared([result.row for result in measured])
    chosen = [_nearest_to_shown(measured, name) for name in names]
    strips = [
        ("reference", measured[0].reference_images),
        *((_label(one), one.images) for one in chosen),
    ]
    figure = Figure(figsize=(9, 1.2 * len(strips)), layout="constrained")
    for panel, (label, images) in zip(
        np.atleast_1d(figure.subplots(len(strips), 1)), strips, strict=True
    ):
        strip = np.concatenate(list(images), axis=1)
        panel.imshow(
            strip.squeeze(-1) if strip.shape[-1] == 1 else strip, cmap="gray", vmin=0, vmax=1
        )
        panel.set(xticks=[], yticks=[])
        panel.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(path, dpi=120)


def _nearest_to_shown(measured: list[PointResult], name: str) -> PointResult:
    mine = [result for result in measured if result.row["method"] == name]
    key, target = registry.method_of(name).shown_at
    return min(mine, key=lambda result: abs(result.row[key] - target))


def _label(measured: PointResult) -> str:
    row = measured.row
    saved = f"{row['flops_ratio']:.2f}x" if not row["reuse_ratio"] else f"{row['reuse_ratio']:.0%}"
    return f"{row['method']} {saved}\n{row['latent_rel_l2']:.4f}"
