"""Sweep logged to MLflow: a run for the sweep, and a child run for each point."""

from __future__ import annotations

from pathlib import Path

from pipeline.cluster.hardware import describe_machine
from pipeline.evaluate.sweeps.config import SweepConfig, ThresholdConfig, settings_of
from pipeline.evaluate.sweeps.driver import sweep
from pipeline.evaluate.sweeps.report import points_table, write_sweep
from pipeline.evaluate.sweeps.results import Sweep, Swept
from pipeline.tracking import Run, Tracker, flat


def run_sweep(
    config: ThresholdConfig | SweepConfig, device: str, command: str, out: str, tracker: Tracker
) -> Sweep:
    """Measure a sweep, log it to MLflow and write its folder.

    Args:
        device: device that torch samples on, cpu or cuda.
        command: command line, which sweep.json and the report repeat.
        out: folder for ``sweep.json``, ``sweep.png`` and ``report.md``.
    """
    folder = Path(out)
    kind = config.kind
    parent = tracker.open_pipeline({}, "pipeline")
    with tracker.run(f"sweep {kind}", stage="sweep", parent=parent, tags={"kind": kind}) as session:
        session.params(flat(settings_of(config)) | {"command": command})
        swept = sweep(config)
        for point in swept.points:
            _log_point(tracker, session, kind, point)
        write_sweep(swept, describe_machine(device), command, folder)
        session.metrics({f"observed/{name}": value for name, value in swept.facts.items()})
        session.output(folder, "sweep")
    print(f"{points_table(swept)}\n", flush=True)
    print(f"sweep: wrote sweep.json, sweep.png and report.md to {folder}", flush=True)
    return swept


def _log_point(tracker: Tracker, session: Run, kind: str, point: Swept) -> None:
    with tracker.child(point.name, stage="point", parent=session, tags={"kind": kind}) as run:
        run.params(point.setting)
        run.metrics(metrics_of(point))


def metrics_of(point: Swept) -> dict[str, float | None]:
    """Return mean, standard deviation and interval of every figure, under MLflow's metric keys."""
    values: dict[str, float | None] = {f"sweep/{key}": value for key, value in point.facts.items()}
    for key, spread in point.figures().items():
        low, high = spread.ci95 or (None, None)
        values |= {
            f"sweep/{key}": spread.mean,
            f"sweep/{key}_std": spread.std,
            f"sweep/{key}_low": low,
            f"sweep/{key}_high": high,
        }
    return values
