"""Golden values of commit b65a2e5: plan hash, noise seed and decisions of three collection plans.

A dataset is resumed by the hash of its plan, draws its noise from the plan's noise seed, and is
compared by the digest of its decisions. A change of names, files or types must keep all three.
Commit b65a2e5 trained ``policy/`` on 512 trajectories of the shipped model with the sites
``attn,ff``.
"""

from pathlib import Path

import pytest

from pipeline.collect.driver import plan_for
from pipeline.collect.worker import Collector
from pipeline.exploration.collect_plan import CollectPlan, Unit
from pipeline.exploration.near_policy import find_reference_policy
from pipeline.traces.tables import GATES, decision_digest, to_table

POLICY = str(Path(__file__).parent / "policy")
TRAJECTORIES = 9
"""Trajectories sampled of each plan; they cover every forecast order and every feedback gain."""
GOLDEN = {
    "default": (
        "360f6821a8a0a130",
        0,
        "7578df6f7c3c4e51c71c1067498755c7e687957ac88d3bb10401ce6563159c5c",
    ),
    "attn,ff": (
        "f37183ffc6018779",
        0,
        "9e7d1d3497798981dfc50217615b19af4ed4b343774c0587a23a6d0b8b181311",
    ),
    "near-policy": (
        "26d1c6540ca61038",
        6043259458234521117,
        "be67bb4fcc57cfeb00dda8302b800c48be73435337575e53b5a9c55b14286204",
    ),
}


def plan_of(name: str) -> CollectPlan:
    """Plan that jobs/collect.py makes from the defaults, from other sites, or around a policy."""
    designs, folder = ("near-policy", POLICY) if name == "near-policy" else ("paced", None)
    return plan_for(
        "digits",
        designs=designs,
        reference_policy=find_reference_policy(folder, designs),
        num_trajectories=512,
        batch_size=48,
        sites=("attn", "ff") if name == "attn,ff" else None,
        dtype="fp32",
        seed=0,
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_a_plan_keeps_its_hash_its_noise_and_its_decisions(name):
    plan = plan_of(name)
    unit = Unit(unit_id="golden", index=0, start=0, stop=TRAJECTORIES)
    _, gates = Collector(plan, root="").sample(unit)
    found = (plan.plan_hash, plan.noise_seed, decision_digest(to_table(gates, GATES)))
    assert found == GOLDEN[name]
