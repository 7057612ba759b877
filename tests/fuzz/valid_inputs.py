"""Small inputs that every job accepts: a policy, traces, a plan and a configuration."""

from __future__ import annotations

from pathlib import Path

from tests.import_graph import ROOT

STEPS = 4
"""Sampling steps of the policy and of the plan."""


def write_inputs(folder: Path) -> None:
    """Write ``policy``, ``traces``, ``plan.json``, ``config.yaml`` and an empty MLflow store."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_policy(folder / "policy")
    _write_plan(folder / "plan.json")
    _write_traces(folder / "traces")
    (folder / "config.yaml").write_bytes((ROOT / "configs" / "default.yaml").read_bytes())
    from pipeline.tracking import Tracker

    Tracker(f"sqlite:///{folder}/mlflow.db", "dqar")


def _write_policy(folder: Path) -> None:
    from dqar.policy.network import ReusePolicy
    from dqar.policy.serialization import save_policy
    from dqar.policy.spec import PolicySpec
    from pipeline.models.model_info import find_model

    model_hash = find_model("digits").model_hash
    spec = PolicySpec(
        num_layers=8,
        model_hash=model_hash,
        steps=STEPS,
        sampler="ddim",
        features=("log_gap", "log_span"),
        granularity="step",
        plans=((0, 2), (0, 1, 2, 3)),
        plan_errors=(0.1, 0.0),
    )
    save_policy(ReusePolicy(spec), folder)


def _write_plan(path: Path) -> None:
    from dqar.gates.rules import Interval
    from dqar.schedules.export import export_plan
    from dqar.schedules.serialization import save_plan

    save_plan(export_plan(Interval(2), steps=STEPS, sites=("attn",), num_layers=8), path)


def _write_traces(folder: Path) -> None:
    import pyarrow as pa

    from pipeline.exploration.collect_plan import CollectPlan
    from pipeline.models.model_info import find_model
    from pipeline.traces.commit import claim_output, write_manifest
    from pipeline.traces.tables import GATES, TRAJECTORIES, commit_unit

    def value(kind):
        if pa.types.is_string(kind):
            return "x"
        return True if pa.types.is_boolean(kind) else pa.scalar(1, kind).as_py()

    info = find_model("digits")
    plan = CollectPlan(model="digits", model_hash=info.model_hash, num_trajectories=1, steps=2)
    claim_output(folder, plan)
    (unit,) = plan.units()
    trajectories, gates = (
        {field.name: [value(field.type)] for field in schema} for schema in (TRAJECTORIES, GATES)
    )
    receipt = commit_unit(folder, unit, trajectories, gates, {})
    facts = {"num_layers": info.num_layers, "site_flops": info.site_flops}
    write_manifest(folder, plan, {unit.unit_id: receipt}, facts)
