"""Evaluation under tracking: one run for the session, a child for each point, the same keys."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dqar.config import DQARConfig
from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy
from pipeline.cluster.config import FleetConfig
from pipeline.contest import Contest
from pipeline.errors import Refusal, checked
from pipeline.evaluate.answer_cache import FOLDER, KeptAnswers
from pipeline.evaluate.config import FIGURES, EvaluateConfig, Measured
from pipeline.evaluate.driver import evaluate
from pipeline.evaluate.frontier import ratio_at
from pipeline.evaluate.report import comparison_table, points_table, write_report
from pipeline.models.model_info import ModelCard, find_model
from pipeline.tracking import Tracker

RIVALS = (
    "threshold",
    "threshold-tuned",
    "interval",
    "interval-forecast1",
    "interval-forecast2",
    "smoothcache",
    "smoothcache-tied",
    "router",
    "static",
)
"""Methods that a session's headlines compare the learned ones with."""
METRICS = (*FIGURES, "speedup_bound", "peak_memory_mb")


def load_policies(flags: list[str], card: ModelCard) -> dict[str, ReusePolicy]:
    """``[NAME=]FOLDER`` flags to methods and policies.

    Raises:
        Refusal: if a folder holds no policy, or one for another model.
    """
    policies: dict[str, ReusePolicy] = {}
    for flag in flags:
        name, _, folder = flag.rpartition("=")
        if not re.fullmatch(r"[\w.-]*", name):
            raise Refusal(
                f"--policy NAME must be of letters, digits, dots and dashes: files are called by "
                f"it. Got {name!r:.60}. Pass another name."
            )
        method = f"learned-{name}" if name else "learned"
        if method in policies:
            raise Refusal(
                f"--policy must name each policy once. Got {method} twice. Pass NAME=FOLDER."
            )
        try:
            policies[method] = load_policy(folder)
        except ValueError as error:
            raise Refusal(str(error)) from error
        _refuse_misfit(policies[method], folder, card)
    return policies


def _refuse_misfit(policy: ReusePolicy, folder: str, card: ModelCard) -> None:
    spec = policy.spec
    if spec.model_hash != card.model_hash:
        raise Refusal(
            f"--policy must be trained for --model. Got {folder}, trained for model "
            f"{spec.model_hash or 'unknown'}, with {card.name} being {card.model_hash}. "
            "Collect and train on this model."
        )
    if spec.num_layers != card.num_layers:
        raise Refusal(
            f"--policy must know the model's {card.num_layers} layers. Got {spec.num_layers} in "
            f"{folder}. Collect and train on this model."
        )


def refuse_policies_apart(config: DQARConfig, policies: dict[str, ReusePolicy]) -> None:
    """Policies must know the sites, and what is cached there.

    Raises:
        Refusal: naming the policy and the sites, or what else does not fit.
    """
    for name, policy in policies.items():
        if missing := set(config.sites) - set(policy.spec.sites):
            raise Refusal(
                f"--policy {name} must know the sites {config.sites}. Got one trained on "
                f"{policy.spec.sites}, without {sorted(missing)}. Pass --sites "
                f"{','.join(policy.spec.sites)}."
            )
        checked(
            policy.spec.refuse_misfit,
            sites=config.sites,
            branch_mode=config.branch_mode,
            cached=config.cached,
            forecast_order=config.forecast_order,
            feedback=config.feedback,
        )


def refuse_other_runs(steps: int, sampler: str, policies: dict[str, ReusePolicy]) -> None:
    """A plan is for one number of steps and one sampler.

    Raises:
        Refusal: naming the policy and what it is for.
    """
    for name, policy in policies.items():
        spec = policy.spec
        if spec.plans and (steps, sampler) != (spec.steps, spec.sampler):
            raise Refusal(
                f"--policy {name} must have planned for the run. Got plans of {spec.steps} steps "
                f"of {spec.sampler} for {steps} of {sampler}. Leave --steps and --sampler out, or "
                "collect and train for others."
            )


def evaluate_methods(
    config: EvaluateConfig,
    contest: Contest,
    fleet_config: FleetConfig,
    out: str,
    tracker: Tracker,
) -> list[Measured]:
    """:func:`pipeline.evaluate.driver.evaluate`, logged and written to the results folder."""
    folder = Path(out)
    lineage = next((policy.spec.lineage for policy in contest.policies.values()), {})
    parent = tracker.open_pipeline(lineage, "pipeline")
    session_name = f"evaluate {config.model}"
    tags = {f"lineage.{stage}": run_id for stage, run_id in lineage.items()}
    with tracker.run(session_name, stage="evaluate", parent=parent, tags=tags) as session:
        session.params(asdict(config) | {"methods": ",".join(contest.methods)})
        for name, policy in contest.policies.items():
            session.dataset("traces", policy.spec.trace_digest, f"policy:{name}", "policy")

        def log(measured: Measured) -> None:
            _log_point(tracker, session.run_id, measured)

        claim = (config, find_model(config.model).model_hash, fleet_config.accelerator_type)
        kept = KeptAnswers(folder / FOLDER, *claim)
        measured = evaluate(config, contest, fleet_config, log, kept)
        write_report(measured, folder, f"{config.model}, {config.num_samples} samples")
        kept.clear()
        session.artifact(folder, "results")
        session.metrics(_headlines([result.row for result in measured]))
    rows = [result.row for result in measured]
    print(f"{points_table(rows)}\n\n{comparison_table(rows)}\n", flush=True)
    print(f"evaluate: results, frontier.png, samples.png and report.md in {folder}", flush=True)
    return measured


def _log_point(tracker: Tracker, session: str, measured: Measured) -> None:
    row = measured.row
    name = f"{row['method']} {row['operating_point']}"
    with tracker.run(name, stage="point", parent=session, tags={"method": row["method"]}) as run:
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


def _headlines(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    learned = [row["method"] for row in rows if row["method"].startswith("learned")]
    return {
        f"headline/{name}_over_{other}_at_{value:g}": ratio_at(
            rows, name, other, "reuse_ratio", value
        )
        for name in dict.fromkeys(learned)
        for other in RIVALS
        for value in (0.3, 0.5, 0.7)
    }
