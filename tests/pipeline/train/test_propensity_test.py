"""Chi-squared test of propensities: right propensities pass, wrong ones fail."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch

from dqar.records import FEATURES
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.exploration.designs import explore
from pipeline.models.model_info import find_model
from pipeline.traces.commit import claim_output, write_manifest
from pipeline.traces.tables import GATES, TRAJECTORIES, commit_unit
from pipeline.train.propensity_test import LEAST_VARIANCE, PropensityTest, Stratum
from tests.pipeline.gate_readers import check_propensities

STEPS, GATE_COUNT, TRAJECTORY_COUNT = 10, 8, 240
NEAR = {"bases": ((0, 2, 5), (0, 3, 4, 7)), "policy_digest": "a" * 24}
TEXTS = {"branch_mode": "tied", "reason": "x", "site": "attn"}


def filler(schema):
    """Return an arbitrary value for each column of a schema that is not boolean."""
    return {
        field.name: "x" if pa.types.is_string(field.type) else pa.scalar(1, field.type).as_py()
        for field in schema
        if not pa.types.is_boolean(field.type)
    }


def columns_of(scripts, ids, change):
    """Return the columns of trajectories that followed random schedules.

    All gates are eligible from step 1 on.
    """
    eligible = torch.ones(STEPS, GATE_COUNT, dtype=torch.bool)
    eligible[0] = False
    reuse = torch.stack([script.wants_reuse & eligible for script in scripts])
    propensity = torch.stack([change(script.propensity(eligible)) for script in scripts])
    shape = reuse.shape
    gates = filler(GATES) | dict.fromkeys(FEATURES, 0.0) | TEXTS
    gates |= {
        "trajectory_id": np.repeat(ids, STEPS * GATE_COUNT),
        "step": np.broadcast_to(np.arange(STEPS)[:, None], shape).flatten(),
        "eligible": eligible.expand(shape).flatten().numpy(),
        "propensity": propensity.flatten().numpy(),
        "draw_id": torch.stack([script.draw_id for script in scripts]).flatten().numpy(),
        "action": np.where(reuse.flatten().numpy(), "reuse", "compute"),
    }
    designs = [script.design for script in scripts]
    return filler(TRAJECTORIES) | {"trajectory_id": ids, "design": designs}, gates


@pytest.fixture
def balance_of(tmp_path):
    """Function that tests a collection with some exploration designs and changed propensities."""

    def build(designs, change=lambda propensity: propensity, count=TRAJECTORY_COUNT):
        info = find_model("digits")
        plan = CollectPlan(
            model="digits",
            model_hash=info.model_hash,
            num_trajectories=count,
            batch_size=count,
            masks_per_noise=1,
            steps=STEPS,
            designs=designs,
            **(NEAR if "near-policy" in designs else {}),
        )
        draw = partial(explore, designs, plan.noise_seed)
        scripts = [draw(index, STEPS, GATE_COUNT, plan.schedules) for index in range(count)]
        ids = [plan.trajectory_id(index) for index in range(count)]
        claim_output(tmp_path, plan)
        (unit,) = plan.units()
        receipt = commit_unit(tmp_path, unit, *columns_of(scripts, ids, change), {})
        facts = {"num_layers": 8, "site_flops": info.site_flops}
        write_manifest(tmp_path, plan, {unit.unit_id: receipt}, facts)
        return check_propensities(str(tmp_path))

    return build


DESIGNS = [
    ("paced",),
    ("regular",),
    ("near-policy", "paced"),
    ("step-synchronised",),
    ("layer-blocked", "independent"),
]


@pytest.mark.parametrize("designs", DESIGNS, ids=",".join)
def test_right_propensities_are_balanced(balance_of, designs):
    balance = balance_of(designs)
    metrics = balance.metrics
    assert {stratum.design for stratum in balance.strata} == set(designs)
    assert metrics["strata"] == len(balance.strata) > STEPS // 2
    assert metrics["p"] > 0.005
    assert metrics["max_z"] < 4


@pytest.mark.parametrize("designs", DESIGNS, ids=",".join)
@pytest.mark.parametrize(
    "change",
    [
        lambda right: torch.where(right < 1, 0.5, right),
        lambda right: torch.where(right < 1, 1 - right, right),
    ],
    ids=["a half", "of the other action"],
)
def test_wrong_propensities_are_not(balance_of, designs, change):
    assert balance_of(designs, change).metrics["p"] < 1e-6


def test_gates_that_share_a_draw_count_once(balance_of):
    (first, *_) = balance_of(("step-synchronised",)).strata
    assert first.draws == TRAJECTORY_COUNT


def test_gates_that_have_their_own_draw_count_each(balance_of):
    (first, *_) = balance_of(("independent",)).strata
    assert first.draws == TRAJECTORY_COUNT * GATE_COUNT


def test_too_few_draws_are_not_tested(balance_of):
    balance = balance_of(("paced",), count=6)
    assert balance.metrics == {"strata": 0.0}
    assert "too few random draws" in str(balance)


def test_scores_by_hand():
    strata = [
        Stratum(design="paced", step=step, draws=100, excess=excess, variance=25.0)
        for step, excess in enumerate((5.0, -10.0))
    ]
    assert [stratum.z for stratum in strata] == [1.0, -2.0]
    balance = PropensityTest(strata=strata)
    # The survival function of a chi-squared with two degrees of freedom is exp(-x / 2).
    assert balance.metrics == {
        "strata": 2.0,
        "chi2": 5.0,
        "p": pytest.approx(math.exp(-2.5)),
        "max_z": 2.0,
    }
    assert "chi-squared 5.0 over 2 strata, p-value 0.082" in str(balance)
    certain = Stratum(design="paced", step=0, draws=3, excess=0.0, variance=0.0)
    assert certain.z == 0.0 < LEAST_VARIANCE


def test_a_real_collection_is_read(traces):
    assert check_propensities(str(traces)).metrics["strata"] >= 0
