"""Training with MLflow: logs parameters, loss and validation, and writes the policy folder."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from pipeline.progress import Progress
from pipeline.traces.dataset import Traces
from pipeline.tracking import Run, Tracker, read_lineage
from pipeline.train.checkpoint import FOLDER, clear
from pipeline.train.config import TrainConfig
from pipeline.train.train import Trained, save_trained, train
from pipeline.train.validation import plot_validation


def train_policy(config: TrainConfig, traces: Traces, out: str, tracker: Tracker) -> Trained:
    """Train a policy on opened traces, log the run and write the policy folder.

    Args:
        config: features, label, sites and settings of the policy.
        traces: opened traces.
        out: policy folder. An interrupted training with the same settings resumes from it.
        tracker: client of MLflow.

    Raises:
        InputError: if the traces do not hold what ``config`` asks for.
    """
    folder = Path(out)
    lineage = lineage_of(traces)
    parent = tracker.open_pipeline(lineage, "pipeline")
    name = f"train {config.features}" + ("" if config.label == "final" else f" {config.label}")
    with tracker.run(name, stage="train", parent=parent) as run:
        run.params(asdict(config) | {"traces": str(traces), "out": out})
        progress = Progress("train", config.fit_config().steps, "optimizer steps")

        def report(step: int, loss: float) -> None:
            run.metrics({"train/loss": loss}, step)
            progress.advance(step - progress.done)

        trained = train(config, traces, report, folder / FOLDER)
        # Early stopping may have ended the fit before its last step.
        progress.finish()
        lineage = {**lineage, "parent": parent, "train": run.run_id}
        save_trained(trained, folder, lineage)
        clear(folder / FOLDER)
        _log(run, trained, folder)
    figures = trained.validation.metrics
    print(
        f"train: policy written to {folder} after {figures['fit_steps']:.0f} optimizer steps "
        "(early stopping by the one-standard-error rule on held-out noise samples). Prediction of "
        f"the final error on {figures['trajectories_held_out']:.0f} held-out trajectories: "
        f"R^2 {figures['r2']:.3f} of the log error; of ending within relative L2 error "
        f"{figures['tolerance']:.2g}: AUC {figures['auc']:.3f}, Brier score "
        f"{figures['brier']:.3f}. {trained.propensity_test}",
        flush=True,
    )
    return trained


def lineage_of(traces: Traces) -> dict[str, str]:
    """Return the MLflow run ids of the collections that made the traces.

    The keys are ``parent``, the pipeline run of the first collection that has one, ``collect``, and
    for further collections ``collect-2`` and so on.
    """
    lineage: dict[str, str] = {}
    for number, part in enumerate(traces.parts, start=1):
        for stage, run_id in read_lineage(part.storage).items():
            is_own = number > 1 and stage != "parent"
            lineage.setdefault(f"{stage}-{number}" if is_own else stage, run_id)
    return lineage


def _log(run: Run, trained: Trained, folder: Path) -> None:
    validation = trained.validation
    run.metrics({f"val/{name}": value for name, value in validation.metrics.items()})
    run.metrics(
        {
            f"propensity_test/{name}": value
            for name, value in trained.propensity_test.metrics.items()
        }
    )
    run.metrics({f"importance/{name}": value for name, value in validation.importance.items()})
    for part in trained.traces.parts:
        run.dataset("traces", part.digest, part.storage.address, "training")
    with tempfile.TemporaryDirectory() as scratch:
        plot = Path(scratch) / "held_out.png"
        plot_validation(validation, plot)
        run.artifact(plot)
        report = Path(scratch) / "held_out.json"
        figures = asdict(validation) | {"propensity_test": trained.propensity_test.metrics}
        report.write_text(json.dumps(figures, indent=2))
        run.artifact(report)
    run.model(folder, "policy")
