"""Frontiers and tables of evaluations of several seeds, from results folders.

    python -m benchmarks.quality.plot_frontiers runs/guidance-4/results-* \\
        --out docs/frontiers/guidance-4.png

Folders of the same noise seed are merged; if several of them have a method, the rows of the first
folder count. The tables go to standard output. The picture shows the mean error over seeds against
the FLOPs ratio, with its 95% interval (Student's t).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.quality.learned_vs_baselines import (
    errors_at,
    errors_table,
    names_of,
    ratios_table,
)
from pipeline.evaluate.result_rows import read_rows
from pipeline.flags.values import split_names
from pipeline.statistics import spread_of

Rows = list[dict[str, Any]]
Place = tuple[float, float, float]
"""FLOPs ratio, mean error, half width of the error's 95% interval."""

FLOPS = tuple(1.2 + 0.1 * index for index in range(35))
"""FLOPs ratios at which the errors of a sweep are interpolated."""


def by_seed_of(folders: list[Path], methods: tuple[str, ...] = ()) -> list[Rows]:
    """Read the rows of each noise seed, in growing order of seeds.

    Args:
        methods: methods to keep, in this order; all methods if empty.

    Raises:
        ValueError: if folders differ in model, sites, guidance or number of samples.
    """
    found: dict[int, Rows] = {}
    for folder in folders:
        rows: Rows = read_rows(folder)
        mine = found.setdefault(rows[0]["seed"], [])
        known = {row["method"] for row in mine}
        mine += [row for row in rows if row["method"] not in known]
    claims = {_claim(row) for rows in found.values() for row in rows}
    if len(claims) > 1:
        raise ValueError(
            "folders must agree in model, sites, guidance and number of samples. "
            f"Got {claims}. Pass folders of one setting."
        )
    return [_of(found[seed], methods) for seed in sorted(found)]


def _of(rows: Rows, methods: tuple[str, ...]) -> Rows:
    if not methods:
        return rows
    # The baseline's row has the steps and the sampler of the reference samples.
    return [row for name in ("baseline", *methods) for row in rows if row["method"] == name]


def _claim(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model", "sites", "guidance", "num_samples"))


def frontier_of(by_seed: list[Rows], method: str) -> Iterator[Place]:
    """Yield the mean error at each of :data:`FLOPS` that the sweeps of all seeds reach."""
    for flops in FLOPS:
        if errors := errors_at(by_seed, method, "flops_ratio", flops):
            spread = spread_of(errors)
            yield flops, spread.mean, spread.half_width


def draw(by_seed: list[Rows], path: Path) -> None:
    """Draw the frontiers of all methods into one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    panel = figure.subplots()
    for name in names_of(by_seed):
        if places := list(frontier_of(by_seed, name)):
            _draw_band(panel, name, places)
    panel.set(
        title=_title(by_seed),
        xlabel="FLOPs ratio (2 = half of the transformer's FLOPs)",
        yscale="log",
    )
    panel.set_ylabel("relative L2 of the latent to the reference sample")
    panel.grid(alpha=0.3, which="both")
    panel.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    # The version of matplotlib is left out, so that the same rows give the same file.
    figure.savefig(path, dpi=90, metadata={"Software": None})


def _draw_band(panel: Any, name: str, places: list[Place]) -> None:
    flops = [place for place, _, _ in places]
    (line,) = panel.plot(flops, [mean for _, mean, _ in places], label=name)
    low = [mean - half for _, mean, half in places]
    high = [mean + half for _, mean, half in places]
    panel.fill_between(flops, low, high, color=line.get_color(), alpha=0.2)


def _title(by_seed: list[Rows]) -> str:
    row = by_seed[0][0]
    run = f"{row['sampler'].upper()}-{row['steps']}"
    setting = f"{row['model']}, {row['sites']}, {run}, guidance {row['guidance']:g}"
    return f"{setting}: {len(by_seed)} seeds x {row['num_samples']}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="results folders of evaluations")
    parser.add_argument("--out", required=True, type=Path, help="picture to write, .png")
    parser.add_argument("--methods", default="", help="methods to draw, in order; default: all")
    arguments = parser.parse_args()
    by_seed = by_seed_of(arguments.folders, split_names(arguments.methods))
    print(f"{errors_table(by_seed)}\n\n{ratios_table(by_seed)}")
    draw(by_seed, arguments.out)


if __name__ == "__main__":
    main()
