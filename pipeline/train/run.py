"""Training under tracking: parameters, curves, held-out figures, the policy registered."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from pipeline.progress import Progress
from pipeline.traces.dataset import TraceUris, each_root
from pipeline.traces.multi_dataset import describe_uris
from pipeline.tracking import Run, Tracker, read_lineage
from pipeline.train.checkpoint import FOLDER, clear
from pipeline.train.config import TrainConfig
from pipeline.train.train import Trained, save_trained, train
from pipeline.train.validation import plot_held_out


def train_policy(config: TrainConfig, uri: TraceUris, out: str, tracker: Tracker) -> Trained:
    """:func:`pipeline.train.train`, with everything logged and the policy folder written."""
    folder = Path(out)
    lineage = lineage_of(uri)
    parent = tracker.open_pipeline(lineage, "pipeline")
    name = f"train {config.features}" + ("" if config.label == "final" else f" {config.label}")
    with tracker.run(name, stage="train", parent=parent) as run:
        run.params(asdict(config) | {"traces": describe_uris(uri), "out": out})
        progress = Progress("train", config.fit_config().steps, "steps")

        def report(step: int, loss: float) -> None:
            run.metrics({"train/loss": loss}, step)
            progress.advance(step - progress.done)

        trained = train(config, uri, report, folder / FOLDER)
        # The fit may have ended before its last step.
        progress.finish()
        lineage = {**lineage, "parent": parent, "train": run.run_id}
        save_trained(trained, folder, lineage)
        clear(folder / FOLDER)
        _log(run, trained, folder)
    figures = trained.held_out.metrics
    print(
        f"train: {figures['fit_steps']:.0f} steps, as far as held-out noises were predicted no "
        f"worse; policy in {folder}; held-out R^2 {figures['r2']:.3f}, AUC {figures['auc']:.3f}, "
        f"Brier {figures['brier']:.3f}; {trained.balance}",
        flush=True,
    )
    return trained


def lineage_of(uri: TraceUris) -> dict[str, str]:
    """Runs that made the traces: ``parent``, ``collect``, and of further collections
    ``collect-2`` and so on. The first that has a parent says which pipeline it is."""
    lineage: dict[str, str] = {}
    for number, root in enumerate(each_root(uri), start=1):
        for stage, run_id in read_lineage(root).items():
            is_own = number > 1 and stage != "parent"
            lineage.setdefault(f"{stage}-{number}" if is_own else stage, run_id)
    return lineage


def _log(run: Run, trained: Trained, folder: Path) -> None:
    held_out = trained.held_out
    run.metrics({f"train/held_out_{name}": value for name, value in held_out.metrics.items()})
    run.metrics({f"train/{name}": value for name, value in trained.balance.metrics.items()})
    run.metrics({f"importance/{name}": value for name, value in held_out.importance.items()})
    for part in trained.traces.parts:
        run.dataset("traces", part.digest, part.storage.address, "training")
    with tempfile.TemporaryDirectory() as scratch:
        plot = Path(scratch) / "held_out.png"
        plot_held_out(held_out, plot)
        run.artifact(plot)
        report = Path(scratch) / "held_out.json"
        figures = asdict(held_out) | {"balance": trained.balance.metrics}
        report.write_text(json.dumps(figures, indent=2))
        run.artifact(report)
    run.artifact(folder, "policy")
    run.tags({"policy_version": run.register_policy("policy")})
