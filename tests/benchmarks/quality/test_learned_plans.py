"""Learned schedules of commit b65a2e5: the files are valid, and their errors are reproduced."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.quality.learned_plans import errors_of
from dqar.step_schedule import StepSchedule, check_computed
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.worker import EvaluationWorker

PLANS = Path(__file__).parents[3] / "benchmarks" / "results" / "plans"
SAMPLES = 4


@pytest.fixture(scope="module", params=sorted(PLANS.glob("*.json")), ids=lambda path: path.stem)
def measured(request):
    return json.loads(request.param.read_text())


def test_every_schedule_is_one_of_the_run(measured):
    assert len(measured["schedules"]) > 40
    for one in measured["schedules"]:
        schedule = StepSchedule(
            computed=tuple(one["computed"]),
            forecast_order=one["forecast_order"],
            feedback=one["feedback"],
        )
        check_computed(schedule.computed, measured["steps"])
        assert len(one["latent_rel_l2"]) == measured["num_samples"]


@pytest.mark.slow
def test_errors_of_the_shipped_model_are_measured_again():
    """The tolerance allows int8 values to move to the next integer in a smaller batch."""
    digits = json.loads((PLANS / "digits.json").read_text())
    config = EvaluateConfig(
        model="digits",
        steps=digits["steps"],
        guidance_scale=digits["guidance"],
        sites=tuple(digits["sites"]),
        seed=digits["seed"],
        batch_size=SAMPLES,
    )
    worker = EvaluationWorker(config)
    chosen = [one for one in digits["schedules"] if len(one["computed"]) in (14, 26)]
    assert len({one["source"] for one in chosen}) > 1
    for one in (chosen[0], chosen[-1]):
        found = errors_of(worker, one, SAMPLES)
        expected = torch.tensor(one["latent_rel_l2"][:SAMPLES])
        torch.testing.assert_close(found, expected, rtol=5e-2, atol=1e-5)
