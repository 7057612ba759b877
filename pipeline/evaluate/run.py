"""Evaluation with MLflow: one run for the evaluation, one child run per operating point."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.cluster.config import ClusterConfig
from pipeline.evaluate.answer_cache import FOLDER, ResultCache
from pipeline.evaluate.comparison import publish_comparison, publish_policies
from pipeline.evaluate.config import FIGURES, EvaluateConfig
from pipeline.evaluate.driver import evaluate
from pipeline.evaluate.points_file import LOGGED_TABLES, POINTS
from pipeline.evaluate.report import write_report
from pipeline.evaluate.tasks import PointResult
from pipeline.evaluate.terminal_report import CAPTION, closing_lines, errors_table
from pipeline.methods import registry
from pipeline.methods.base import Comparison
from pipeline.models.model_info import find_model
from pipeline.redaction import without_secrets
from pipeline.report.decision import decide
from pipeline.report.frontier import ratio_at
from pipeline.tracking import Run, Tracker

METRICS = (*FIGURES, "speedup_bound", "peak_memory_mb", "solution_rel_l2")
"""Columns of results.json that are logged to MLflow as ``eval/NAME``."""


def evaluate_methods(
    config: EvaluateConfig,
    comparison: Comparison,
    cluster_config: ClusterConfig,
    out: str,
    tracker: Tracker,
    address: str | None = None,
) -> list[PointResult]:
    """Evaluate the methods, log to MLflow and write the results folder.

    Args:
        config: settings of the evaluation.
        comparison: methods, policies and sweep grid.
        cluster_config: workers and timeouts.
        out: results folder. An interrupted evaluation with the same settings resumes from it.
        tracker: client of MLflow.
        address: path or URI of the results for the printed commands; None for ``out``.

    Raises:
        InputError: if a worker's device is not of the requested accelerator type, or if a method
            exceeds its calibration budget.
    """
    folder = Path(out)
    lineage = next((policy.spec.lineage for policy in comparison.policies.values()), {})
    parent = tracker.open_pipeline(lineage, "pipeline")
    session_name = f"evaluate {config.model}"
    tags = {f"lineage.{stage}": run_id for stage, run_id in lineage.items()}
    with tracker.run(session_name, stage="evaluate", parent=parent, tags=tags) as session:
        session.params(asdict(config) | {"methods": ",".join(comparison.methods)})
        for name, policy in comparison.policies.items():
            session.dataset("traces", policy.spec.trace_digest, f"policy:{name}", "policy")

        def log(measured: PointResult) -> None:
            _log_point(tracker, session, measured)

        claim = (config, find_model(config.model).model_hash, cluster_config.accelerator_type)
        kept = ResultCache(folder / FOLDER, *claim)
        measured = evaluate(config, comparison, cluster_config, log, kept)
        title = _title(config, measured)
        write_report(measured, folder, title)
        kept.clear()
        session.output(folder, "results")
        session.tags({LOGGED_TABLES: json.dumps([{"path": f"results/{POINTS}", "type": "table"}])})
        rows = [result.row for result in measured]
        session.metrics(_error_ratios(rows) | _calibration(rows))
        decision = decide(rows, address or out)
        experiment = publish_comparison(tracker, session, config, rows, decision)
        publish_policies(tracker, session, config, comparison, rows, experiment)
    print(
        f"{title}\n\n{CAPTION}\n\n{errors_table(rows)}\n\n"
        f"{closing_lines(tracker, experiment, decision, address or out)}",
        flush=True,
    )
    return measured


def _title(config: EvaluateConfig, measured: list[PointResult]) -> str:
    return without_secrets(
        f"Evaluation of {config.model}: {config.num_samples} samples per operating point, "
        f"{config.sampler} with {config.steps} steps, guidance {config.guidance_scale:g}, sites "
        f"{','.join(config.sites)}, noise of seed {config.seed}, on {measured[0].row['device']}"
    )


def _log_point(tracker: Tracker, session: Run, measured: PointResult) -> None:
    row = measured.row
    name = f"{row['method']} {row['operating_point']}"
    with tracker.child(name, stage="point", parent=session, tags={"method": row["method"]}) as run:
        params = {
            key: row[key]
            for key in (
                "method",
                "operating_point",
                "sites",
                "forecast_order",
                "feedback",
                "steps",
                "sampler",
                "guidance",
                "model",
                "seed",
                "num_samples",
                "device",
            )
        }
        run.params(params)
        run.metrics({f"eval/{key}": row.get(key) for key in METRICS})


def _error_ratios(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the error of each learned method divided by that of each alternative method.

    Ratios are at equal reuse; below 1 the learned method is the more accurate.
    """
    names = dict.fromkeys(row["method"] for row in rows)
    return {
        f"summary/error_ratio/{name}/{other.name}/reuse_{value:g}": ratio_at(
            rows, name, other.name, "reuse_ratio", value
        )
        for name in names
        if registry.method_of(name).role == "subject"
        for other in registry.METHODS
        if other.role == "alternative"
        for value in (0.3, 0.5, 0.7)
    }


def _calibration(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the calibration trajectories and the model evaluations that each method has spent."""
    return {
        f"{column}/{row['method']}": float(row[column])
        for row in rows
        for column in ("calibration_trajectories", "tuning_evaluations")
    }
