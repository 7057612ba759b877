"""A tiny collection of the shipped model, made once: 24 trajectories of 6 steps."""

from pathlib import Path

import pytest

from pipeline.collect import Collector
from pipeline.commit import claim_folder, write_manifest
from pipeline.models import find_model, load_model
from pipeline.plan import CollectPlan


@pytest.fixture(scope="session")
def digits():
    """The shipped model, loaded once."""
    return load_model(find_model("digits"), sampler="ddim", dtype="fp32", device="cpu")


@pytest.fixture(scope="session")
def traces_plan():
    card = find_model("digits")
    return CollectPlan(
        model="digits",
        model_hash=card.model_hash,
        num_trajectories=24,
        batch_size=12,
        steps=6,
        guidance_scale=card.guidance_scale,
    )


@pytest.fixture(scope="session")
def traces(tmp_path_factory, traces_plan) -> Path:
    """A finished collection."""
    root = tmp_path_factory.mktemp("traces") / "digits"
    claim_folder(root, traces_plan)
    collector = Collector(traces_plan, str(root))
    receipts = {unit.unit_id: collector.do(unit) for unit in traces_plan.units()}
    card = find_model("digits")
    facts = {"num_layers": card.num_layers, "site_flops": card.site_flops}
    write_manifest(root, traces_plan, receipts, facts)
    return root
