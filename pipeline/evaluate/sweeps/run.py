"""A sweep under tracking: an MLflow run for the sweep, and a child run for each point."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipeline.cluster.hardware import describe_machine
from pipeline.evaluate.sweeps.config import SweepConfig, ThresholdConfig
from pipeline.evaluate.sweeps.driver import sweep
from pipeline.evaluate.sweeps.report import points_table, write_sweep
from pipeline.evaluate.sweeps.results import Sweep, Swept
from pipeline.tracking import Tracker, flat


def run_sweep(
    config: ThresholdConfig | SweepConfig, device: str, command: str, out: str, tracker: Tracker
) -> Sweep:
    """Sweep, log, and write the folder.

    Args:
        command: the command line, for the record.
        out: folder for ``sweep.json``, ``sweep.png`` and ``report.md``.
    """
    folder = Path(out)
    kind = config.kind
    parent = tracker.open_pipeline({}, "pipeline")
    with tracker.run(f"sweep {kind}", stage="sweep", parent=parent, tags={"kind": kind}) as session:
        session.params(flat(asdict(config)) | {"command": command})
        swept = sweep(config)
        for point in swept.points:
            _log_point(tracker, session.run_id, kind, point)
        write_sweep(swept, describe_machine(device), command, folder)
        session.metrics({f"observed/{name}": value for name, value in swept.facts.items()})
        session.artifact(folder, "sweep")
    print(f"{points_table(swept)}\n", flush=True)
    print(f"sweep: sweep.json, sweep.png and report.md in {folder}", flush=True)
    return swept


def _log_point(tracker: Tracker, session: str, kind: str, point: Swept) -> None:
    with tracker.run(point.name, stage="point", parent=session, tags={"kind": kind}) as run:
        run.params(point.setting)
        run.metrics(metrics_of(point))


def metrics_of(point: Swept) -> dict[str, float | None]:
    """Mean, standard deviation and interval of every figure, under the keys of the tracker."""
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
