"""Experiment that compares the methods of one evaluation: a run for each, a line in one chart."""

from __future__ import annotations

from typing import Any

from dqar.policy.spec import PolicySpec
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.promotion import PolicyFigures, is_beaten
from pipeline.methods.base import Comparison
from pipeline.report.decision import SAVINGS, Decision
from pipeline.report.equal_flops import estimate_at
from pipeline.report.frontier import frontier
from pipeline.report.rows import methods_of, role_of
from pipeline.tracking import Run, Tracker
from pipeline.tracking.operations import DescribePolicy, PromotePolicy, TagExperiment
from pipeline.tracking.pages import EVALUATION, artifact_page, charts_page, model_page
from pipeline.tracking.saved_view import VIEW_TAG, Chart, Section, has_tested_page, saved_view

Rows = list[dict[str, Any]]

NOTE = "mlflow.note.content"
"""Tag with the description that MLflow's page shows, in Markdown."""
OVER_FLOPS = "compare/relative L2 error by FLOPs per mille"
"""Metric of a method: the error at each of its operating points. MLflow's steps, here the FLOPs in
per mille of sampling without reuse, are whole numbers."""
AT_SAVING = "compare/relative L2 error at {:g}x fewer FLOPs"
VIEW = (
    Section(
        heading="Error against compute",
        charts=(Chart(metric=OVER_FLOPS, is_line=True),),
        columns=1,
        height=520,
    ),
    Section(
        heading="Error at equal compute",
        charts=tuple(Chart(metric=AT_SAVING.format(one), is_line=False) for one in SAVINGS),
        columns=2,
        height=360,
    ),
)
"""Charts of the experiment, the first one over the whole width."""
LONGEST_NOTE = 4500
"""Most characters of the description; MLflow refuses tags of 5000."""


def publish_comparison(
    tracker: Tracker,
    session: Run,
    config: EvaluateConfig,
    rows: Rows,
    decision: Decision,
) -> str:
    """Create the experiment of an evaluation and return its key.

    Args:
        tracker: tracker of the evaluation.
        session: run of the evaluation, which holds the report.
        config: settings of the evaluation.
        rows: rows of results.json.
        decision: operating points to ship.
    """
    experiment = tracker.experiment(comparison_name(config, tracker.experiment_name, session))
    for method in methods_of(rows):
        tags = {"role": role_of(method), "evaluation": session.key}
        with tracker.top_run(method, experiment=experiment, tags=tags) as run:
            _log_method(run, rows, method)
    note = description(tracker, session, rows, decision)
    values = {NOTE: note[:LONGEST_NOTE], EVALUATION: session.key}
    if has_tested_page():
        values[VIEW_TAG] = saved_view(VIEW)
    tracker.log(TagExperiment(experiment=experiment, values=values))
    session.tags({"comparison": charts_page(experiment, has_view=has_tested_page())})
    return experiment


def comparison_name(config: EvaluateConfig, experiment: str, session: Run) -> str:
    """Return the name of the experiment: settings that all methods share, and the evaluation."""
    model = config.model.rstrip("/").rpartition("/")[2][:60]
    return (
        f"{experiment[:60]} comparison: {model}, {config.sampler}-{config.steps}, guidance "
        f"{config.guidance_scale:g}, {','.join(config.sites)}, {session.run_id[:8]}"
    )


def _log_method(run: Run, rows: Rows, method: str) -> None:
    for flops_ratio, error in frontier(rows, method, "flops_ratio"):
        run.metrics({OVER_FLOPS: error}, round(1000 / flops_ratio))
    estimates = {one: estimate_at(rows, method, one) for one in SAVINGS}
    run.metrics({AT_SAVING.format(at): one and one.error for at, one in estimates.items()})
    first = next(row for row in rows if row["method"] == method)
    shared = ("model", "sites", "steps", "sampler", "guidance", "num_samples", "seed", "device")
    run.params({name: first[name] for name in shared})


def description(tracker: Tracker, session: Run, rows: Rows, decision: Decision) -> str:
    """Return the description of the experiment, the links first: MLflow shows its first line."""
    stages = tracker.experiment_id
    links = {
        "Report": artifact_page(stages, session.key, "results/report.html"),
        "what is reused": artifact_page(stages, session.key, "results/reuse_map.svg"),
        "all points": artifact_page(stages, session.key, "results/points.json"),
        "policy": model_page(),
    }
    scheduled = {row["method"] for row in rows if row.get("schedule_source")}
    if not scheduled:
        del links["what is reused"]
    if not any(role_of(method) == "subject" for method in scheduled):
        del links["policy"]
    listed = " · ".join(f"[{name}]({page})" for name, page in links.items())
    return f"{listed} · {decision.markdown}"


def publish_policies(
    tracker: Tracker,
    session: Run,
    config: EvaluateConfig,
    comparison: Comparison,
    rows: Rows,
    experiment: str,
) -> None:
    """Describe the registered versions of the policies, and promote those that have beaten others.

    Only policies for the settings of the evaluation are promoted, or count as beaten.

    Args:
        experiment: key of the experiment with the comparison.
    """
    runs = {
        name: policy.spec.lineage["train"]
        for name, policy in comparison.policies.items()
        if "train" in policy.spec.lineage and is_for(policy.spec, config)
    }
    page = charts_page(experiment, has_view=has_tested_page())
    for name, run in runs.items():
        figures = PolicyFigures.of(rows, name)
        text = f"{figures.markdown}\n\n[Comparison with other methods]({page})"
        tags = figures.tags | {"evaluation": session.run_id}
        tracker.log(DescribePolicy(run=run, text=text, values=tags))
        beaten = [theirs for other, theirs in runs.items() if is_beaten(rows, name, other)]
        if figures.points:
            tracker.log(PromotePolicy(run=run, beaten=beaten))


def is_for(spec: PolicySpec, config: EvaluateConfig) -> bool:
    """Return True if a policy was trained for the guidance and the sites of an evaluation, which
    refuses policies for other models, steps and samplers."""
    return spec.guidance == config.guidance_scale and set(spec.sites) == set(config.sites)
