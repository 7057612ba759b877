"""Ablations: errors of a policy's plans on calibration noise, and their table."""

from __future__ import annotations

import pytest
import torch

from benchmarks.quality.ablations import FEATURES, plan_errors, table
from benchmarks.quality.ground_truth import worker_of
from dqar.gates.rules import MaskGate
from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import save_policy
from dqar.policy.spec import PolicySpec
from dqar.records import FEATURE_SETS
from pipeline.methods.calibration import CalibrationTask
from pipeline.train.config import STATES, TrainConfig

STEPS, NOISES = 5, 3
ROUNDING = 2e-5
"""Largest relative L2 distance between runs that compute every step in batches of different sizes,
since kernels round differently for another number of rows."""
MOVED = 5e-3
"""Relative tolerance of a plan's error between batch sizes: a changed last bit can move a value
of an int8 cache to the next integer."""


@pytest.fixture(scope="module")
def policy():
    """Policy with plans of 2 and 5 steps: 70%, 50% and 30% of 5 steps are nearest to 5, 2 and 2."""
    spec = PolicySpec(
        features=("log_gap", "log_span", "log_snr"),
        plans=((0, 2), (0, 1, 2, 3, 4)),
        plan_errors=(0.1, 0.0),
        steps=STEPS,
        guidance=2.0,
        feedback=0.5,
        granularity="step",
        metrics={"r2": 0.5},
    )
    return ReusePolicy(spec).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def evaluator(policy):
    return worker_of(policy, "digits", 52)


def test_plans_are_run_as_the_policy_says(evaluator, policy):
    found = plan_errors(evaluator, policy, NOISES)
    assert found.shape == (3, NOISES)
    # The first plan computes every step, in one batch with the samples of the other plans.
    assert (found[0] < ROUNDING).all()
    reuse = torch.tensor([step not in (0, 2) for step in range(STEPS)])[:, None, None]
    probe = CalibrationTask(name="plan", gate=MaskGate(reuse), num_samples=NOISES, feedback=0.5)
    assert (found[1] > 0).all()
    torch.testing.assert_close(found[1], evaluator.calibrate(probe).error, atol=0, rtol=MOVED)
    torch.testing.assert_close(found[2], found[1], atol=0, rtol=MOVED)


def test_a_row_says_what_a_policy_is(evaluator, policy, tmp_path):
    save_policy(policy, tmp_path / "mine")
    lines = table(evaluator, tmp_path, ["mine"], NOISES).splitlines()
    heads, _, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert heads[:5] == ["policy", "held-out R^2", "order", "gain", "70% computed"]
    assert cells[:5] == ["mine", "0.500", "0", "0.5", "0.0000 ± 0.0000"]
    assert cells[-1].split(" ± ")[0] == f"{plan_errors(evaluator, policy, NOISES)[2].mean():.4f}"


def test_every_feature_of_a_schedule_that_can_be_left_out_is():
    names = set(TrainConfig().names)
    assert names - {*STATES, "order", "feedback"} == set(FEATURES) <= set(FEATURE_SETS["schedule"])
