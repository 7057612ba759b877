"""Golden plan hash, and noise seed and decisions of commit b65a2e5, of three collection plans.

A dataset is resumed by the hash of its plan, draws its noise from the plan's noise seed, and is
compared by the digest of its decisions. A change of names, files or types must keep all three.
Plan hashes, and with them the trajectory ids in the digests, are those since a model's identity
covers its scheduler and classifier; noise seeds and all other columns are those of b65a2e5. Commit
b65a2e5 trained ``policy/`` on 512 trajectories of the shipped model with the sites ``attn,ff``.
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
        "c704b4961c7a7357",
        0,
        "fea7bec8cfbcbbacffcffabb9b75dfc2e700eaed6ed73ef0416c77aedae10bfd",
    ),
    "attn,ff": (
        "9424cdc8d0b4c33e",
        0,
        "4eb5936398d830bde9d5f954440faf0a5ea0c55a73bb50f7b0338a972ce9dd34",
    ),
    "near-policy": (
        "8ee21ab001728f3b",
        6043259458234521117,
        "4042ac47a961959a01b7e4f810f8b90caeedaf82229da87a183afdfaa3832d4d",
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
