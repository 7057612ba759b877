"""Results folder of a sweep: sweep.json, a plot and a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.evaluate.sweeps.results import Sweep, Swept, shown
from pipeline.markdown import markdown_table
from pipeline.statistics import Spread
from pipeline.storage.unfinished_folder import written_last


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Axes of the plot and columns of the table of one kind of sweep."""

    x: str
    """Setting on the horizontal axis of every panel."""
    series: tuple[str, ...] = ()
    """Settings that differ between lines: the first by colour, the second by dashes."""
    panels: tuple[str, ...]
    """Figures that are plotted, one in each panel."""
    columns: tuple[str, ...]
    """Figures in the columns of the table."""


SCHEDULES = Layout(
    x="layer_fraction",
    series=("method",),
    panels=("reuse_ratio", "speedup", "latent_rel_l2"),
    columns=("reuse_ratio", "speedup", "latent_rel_l2", "latency_s", "fid_change", "cache_mb"),
)
LAYOUTS = {
    "threshold": Layout(
        x="threshold",
        series=("scenario", "reuse_limit"),
        panels=("runtime_ms", "rss_mb", "reuse_count"),
        columns=("runtime_ms", "rss_mb", "reuse_count", "speedup", "cache_mb"),
    ),
    "warmup": replace(SCHEDULES, x="warmup_fraction"),
    "layer-fraction": SCHEDULES,
    "direction": SCHEDULES,
    "ablations": Layout(
        x="ablation",
        panels=("reuse_ratio", "latent_rel_l2", "fid_change", "cache_mb", "latency_s"),
        columns=(
            *("reuse_ratio", "latent_rel_l2", "fid", "fid_change"),
            *("cache_mb", "latency_s", "speedup"),
        ),
    ),
}
LABELS = {
    "runtime_ms": "runtime, ms a run",
    "rss_mb": "peak RSS, MiB",
    "reuse_count": "reuses a run",
    "reuse_ratio": "reuse ratio",
    "reuse_ratio_by_schedule": "reuse ratio by arithmetic",
    "reuse_ratio_dit_xl": "reuse ratio of 28 layers, 50 steps",
    "speedup": "speed-up x",
    "latent_rel_l2": "rel L2 to reference",
    "latency_s": "s a sample",
    "fid": "FID",
    "fid_change": "FID - baseline FID",
    "cache_mb": "cache, MiB",
    "threshold": "entropy threshold, nats",
    "warmup_fraction": "warm-up share",
    "layer_fraction": "share of layers",
}
DASHES = ("-", "--", ":", "-.")


def write_sweep(sweep: Sweep, machine: dict[str, Any], command: str, folder: Path) -> None:
    """Write ``sweep.png``, ``report.md`` and, last, ``sweep.json``."""
    with written_last(folder / "sweep.json", as_json(sweep, machine, command)):
        plot_sweep(sweep, folder / "sweep.png")
        (folder / "report.md").write_text(report(sweep, machine, command), encoding="utf-8")


def as_json(sweep: Sweep, machine: dict[str, Any], command: str) -> dict[str, Any]:
    """Return the command, the machine, the figures of every run and their statistics."""
    points = [
        {
            "setting": point.setting,
            "facts": point.facts,
            "figures": {key: asdict(spread) for key, spread in point.figures().items()},
            "runs": list(point.runs),
        }
        for point in sweep.points
    ]
    return {
        "kind": sweep.kind,
        "command": command,
        "machine": machine,
        "config": sweep.config,
        "facts": sweep.facts,
        "points": points,
    }


def report(sweep: Sweep, machine: dict[str, Any], command: str) -> str:
    """Return the text of the report, in markdown."""
    where = ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None)
    facts = ", ".join(f"{key} {shown(value)}" for key, value in sweep.facts.items())
    runs = len(sweep.points[0].runs)
    paragraphs = [
        f"# Sweep: {sweep.kind}",
        f"`{command}`",
        f"Measured on: {where}.",
        f"Observed: {facts}." if facts else "",
        f"Mean +- half of the 95% confidence interval (Student's t) over {runs} runs, "
        "each on its own noise samples.",
        points_table(sweep),
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


def points_table(sweep: Sweep) -> str:
    """Return a markdown table with a row for each point; a dash where a figure does not apply."""
    first = sweep.points[0]
    columns = LAYOUTS[sweep.kind].columns
    keys = [*first.setting, *first.facts, *columns]
    heads = [LABELS.get(key, key.replace("_", " ")) for key in keys]
    return markdown_table(heads, [_cells(point, columns) for point in sweep.points])


def _cells(point: Swept, columns: tuple[str, ...]) -> list[str]:
    figures = point.figures()
    given = [shown(value) for value in (*point.setting.values(), *point.facts.values())]
    return [*given, *(_with_error(figures.get(name)) for name in columns)]


def _with_error(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    error = "" if spread.ci95 is None else f" +- {spread.half_width:.2g}"
    return f"{spread.mean:.4g}{error}"


def plot_sweep(sweep: Sweep, path: Path) -> None:
    """Plot a panel for each figure, with error bars for the 95% confidence intervals."""
    from matplotlib.figure import Figure

    layout = LAYOUTS[sweep.kind]
    figure = Figure(figsize=(4.8 * len(layout.panels), 4.4), layout="constrained")
    panels = figure.subplots(1, len(layout.panels), squeeze=False)[0]
    for panel, name in zip(panels, layout.panels, strict=True):
        for line in _lines(sweep.points, layout):
            _draw(panel, line, (layout.x, name))
        panel.set(xlabel=LABELS.get(layout.x, ""), ylabel=LABELS[name])
        panel.grid(alpha=0.3)
    if layout.series:
        title = ", ".join(key.replace("_", " ") for key in layout.series)
        panels[0].legend(title=title, fontsize=7, title_fontsize=7)
    figure.savefig(path, dpi=120)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """Points of one line of the plot, and the style of that line."""

    points: list[Swept]
    style: dict[str, Any]


def _lines(points: list[Swept], layout: Layout) -> list[_Line]:
    grouped: dict[tuple, list[Swept]] = {}
    for point in points:
        grouped.setdefault(tuple(point.setting[key] for key in layout.series), []).append(point)
    colours = list(dict.fromkeys(key[:1] for key in grouped))
    dashes = list(dict.fromkeys(key[1:] for key in grouped))
    return [
        _Line(
            points=members,
            style={
                "label": " ".join(shown(part) for part in key),
                "color": f"C{colours.index(key[:1])}",
                "linestyle": DASHES[dashes.index(key[1:]) % len(DASHES)] if key else "none",
            },
        )
        for key, members in grouped.items()
    ]


def _draw(panel: Any, line: _Line, axes: tuple[str, str]) -> None:
    x, name = axes
    drawn = [(point.setting[x], point.figures().get(name)) for point in line.points]
    spots = [(place, spread) for place, spread in drawn if spread is not None]
    if spots and spots[0][0] is None:  # the baseline has no x
        panel.axhline(spots[0][1].mean, **line.style)
    elif spots:
        panel.errorbar(
            [place for place, _ in spots],
            [spread.mean for _, spread in spots],
            yerr=[spread.half_width for _, spread in spots],
            **line.style,
            marker="o",
            markersize=4,
            capsize=3,
        )
