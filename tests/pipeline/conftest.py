"""A tiny collection of the shipped model, made once: 24 trajectories of 6 steps."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.collect.worker import Collector
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.models.loading import load_model
from pipeline.models.model_info import find_model
from pipeline.traces.commit import claim_output, write_manifest


@pytest.fixture(scope="session")
def digits():
    """The shipped model, loaded once."""
    return load_model(find_model("digits"), sampler="ddim", dtype="fp32", device="cpu")


@pytest.fixture(scope="session")
def traces_plan():
    info = find_model("digits")
    return CollectPlan(
        model="digits",
        model_hash=info.model_hash,
        num_trajectories=24,
        batch_size=12,
        steps=6,
        guidance_scale=info.guidance_scale,
    )


@pytest.fixture(scope="session")
def traces(tmp_path_factory, traces_plan) -> Path:
    """A finished collection."""
    return collected(traces_plan, tmp_path_factory.mktemp("traces") / "digits")


@pytest.fixture(scope="session")
def mixed_traces(tmp_path_factory, traces_plan) -> Path:
    """A finished collection whose trajectories take two orders of forecasts and two gains of error
    feedback in turns."""
    settings = {"forecast_orders": (0, 1), "feedbacks": (0.0, 0.5)}
    plan = replace(traces_plan, num_trajectories=48, **settings)
    return collected(plan, tmp_path_factory.mktemp("mixed") / "digits")


@pytest.fixture(scope="session")
def near_traces(tmp_path_factory, traces_plan) -> Path:
    """A finished collection of 12 trajectories around two schedules."""
    plan = replace(
        traces_plan,
        num_trajectories=12,
        designs=("near-policy",),
        bases=((0, 2, 4), (0, 3)),
        policy_digest="a" * 24,
    )
    return collected(plan, tmp_path_factory.mktemp("near") / "digits")


def collected(plan: CollectPlan, root: Path) -> Path:
    """A plan's traces, without a cluster."""
    claim_output(root, plan)
    collector = Collector(plan, str(root))
    receipts = {unit.unit_id: collector.do(unit) for unit in plan.units()}
    info = find_model("digits")
    facts = {"num_layers": info.num_layers, "site_flops": info.site_flops}
    write_manifest(root, plan, receipts, facts)
    return root


@pytest.fixture(scope="session")
def made_store(tmp_path_factory):
    """Path of an sqlite store with MLflow's tables, which take seconds to make."""
    from pipeline.tracking.connection import connect

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def store_uri(made_store, tmp_path):
    """URI of a store of the test's own: a copy."""
    shutil.copyfile(made_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"
