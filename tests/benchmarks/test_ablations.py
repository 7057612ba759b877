"""Ablations: a policy's own plan on calibration noise, and a table of them."""

from __future__ import annotations

import pytest
import torch

from benchmarks.ablations import FEATURES, evaluator_of, parse, plan_errors, table
from dqar.policy import ReusePolicy
from dqar.policy_file import save_policy
from dqar.policy_spec import PolicySpec
from dqar.records import FEATURE_SETS
from pipeline.train_config import STATES, TrainConfig

STEPS, NOISES = 4, 3


@pytest.fixture(scope="module")
def policy():
    """It plans to compute two steps, or all."""
    spec = PolicySpec(
        features=("log_gap", "log_span", "log_snr"),
        plans=((0, 2), (0, 1, 2, 3)),
        plan_errors=(0.1, 0.0),
        steps=STEPS,
        guidance=2.0,
        granularity="step",
        metrics={"r2": 0.5},
    )
    return ReusePolicy(spec).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def evaluator(policy):
    return evaluator_of(parse(["features", "--out", "x"]), policy)


def test_a_plan_of_all_steps_errs_nowhere(evaluator, policy):
    assert not plan_errors(evaluator, policy, STEPS, NOISES).any()


def test_the_nearest_plan_is_measured_in_batches_as_in_one(evaluator, policy, monkeypatch):
    whole = plan_errors(evaluator, policy, 1, NOISES)
    assert whole.shape == (NOISES,)
    assert (whole > 0).all()
    monkeypatch.setattr("benchmarks.ablations.ROWS", 2)
    torch.testing.assert_close(plan_errors(evaluator, policy, 1, NOISES), whole)


def test_a_row_says_what_a_policy_is(evaluator, policy, tmp_path):
    save_policy(policy, tmp_path / "mine")
    *_, row = table(evaluator, tmp_path, ["mine"], NOISES)
    # All of 4 steps, and 2, and 1 at the nearest.
    assert row.startswith("| mine | 0.500 | 0 | 0 | ")
    errors = [cell.split(" ± ")[0] for cell in row.strip("| ").split(" | ")[4:]]
    found = plan_errors(evaluator, policy, 2, NOISES)
    assert errors[1] == errors[2] == f"{found.mean():.4f}"


def test_every_feature_of_a_schedule_that_can_be_left_out_is():
    names = set(TrainConfig().names)
    assert names - {*STATES, "order", "feedback"} == set(FEATURES) <= set(FEATURE_SETS["schedule"])
