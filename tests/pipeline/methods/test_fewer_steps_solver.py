"""Fewer steps of DPM-Solver++: images, cost, and models whose noise schedule is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from dqar.integration import DQARDPMSolverSampler, SamplerConfig
from pipeline.errors import InputError
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.base import COARSE, Comparison, OperatingPoint, SweepGrid
from pipeline.methods.fewer_steps import FewerSolverSteps, FewerSteps
from pipeline.methods.registry import refuse_unserved
from pipeline.models.model_info import DIGITS, find_model
from pipeline.models.noise import draw_noise
from tests.pipeline.made_up_answers import MadeUpSession

# NumPy warns about the way in which the solvers of diffusers pass tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

STEPS, SAMPLES = 10, 3
METHOD = FewerSolverSteps.name


def points_of(method, grid, steps):
    comparison = Comparison(methods=(method.name,), policies={}, grid=grid)
    return method().points(MadeUpSession(steps=steps, comparison=comparison))


@pytest.fixture(scope="module")
def evaluator():
    return EvaluationWorker(
        EvaluateConfig(
            model="digits", steps=STEPS, guidance_scale=2.0, num_samples=SAMPLES, batch_size=SAMPLES
        )
    )


@pytest.fixture(scope="module")
def measured(evaluator):
    return evaluator.measure(points_of(FewerSolverSteps, SweepGrid(steps=(0.5,)), STEPS)[0])


def test_points_are_those_of_fewer_steps_by_another_sampler():
    points, plain = (points_of(one, COARSE, 50) for one in (FewerSolverSteps, FewerSteps))
    assert [point.operating_point for point in points] == [one.operating_point for one in plain]
    assert [point.steps for point in points] == [one.steps for one in plain]
    assert {(point.method, point.sampler, point.gate) for point in points} == {
        (METHOD, "dpm", None)
    }
    assert {one.method for one in plain} == {"fewer-steps"}


def test_images_are_the_solvers_from_the_twins_noise(measured, evaluator, digits):
    info = digits.info
    noise, labels = draw_noise("evaluate", 0, range(SAMPLES), info.latent_shape, info.num_classes)
    sampling = SamplerConfig(num_inference_steps=5, guidance_scale=2.0)
    sampler = DQARDPMSolverSampler(digits.transformer, digits.scheduler, sampling)
    images = digits.decode(sampler.sample(SAMPLES, labels, latents=noise))
    expected = ((images.permute(0, 2, 3, 1) + 1.0) / 2.0).clamp(0, 1)
    torch.testing.assert_close(torch.from_numpy(measured.images), expected, atol=1e-5, rtol=1e-4)
    reference = evaluator.measure(
        OperatingPoint(method="baseline", operating_point="twin", steps=STEPS)
    )
    assert (measured.reference_images == reference.images).all()


def test_half_the_steps_are_half_the_work(measured):
    row = measured.row
    assert row["flops_ratio"] == pytest.approx(2.0)
    assert (row["steps"], row["reuse_ratio"], row["sampler"]) == (5, 0.0, "dpm")
    assert row["latent_rel_l2"] > 0


def test_the_twin_keeps_its_own_sampler(evaluator, measured):
    del measured
    row = evaluator.measure(
        OperatingPoint(method="baseline", operating_point="twin", steps=STEPS)
    ).row
    assert (row["sampler"], row["latent_rel_l2"]) == ("ddim", 0.0)


# Models.


@pytest.fixture
def model_with(tmp_path):
    """Build the description of the shipped model with a changed scheduler configuration."""

    def made(config):
        folder = shutil.copytree(DIGITS, tmp_path / "model")
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(config(json.loads(path.read_text()))))
        return find_model(str(folder))

    return made


def test_the_shipped_model_has_a_solver():
    FewerSolverSteps.check(find_model("digits"))


def test_a_model_that_predicts_velocity_has_a_solver(model_with):
    FewerSolverSteps.check(model_with(lambda old: old | {"prediction_type": "v_prediction"}))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (lambda _: {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscrete"),
        (lambda old: old | {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        (lambda old: old | {"prediction_type": "flow_prediction"}, "flow_prediction"),
    ],
    ids=["flow", "edm", "prediction"],
)
def test_a_model_of_another_kind_is_refused(model_with, config, said):
    info = model_with(config)
    refuse_unserved(("interval",), info)
    with pytest.raises(InputError, match=rf"--methods {METHOD} must.*{said}.*Leave {METHOD} out"):
        refuse_unserved(("interval", METHOD), info)


@pytest.mark.parametrize("name", ["NoSuchScheduler", "AutoencoderKL", None])
def test_a_scheduler_that_is_none_is_refused(model_with, name):
    info = model_with(lambda old: old | {"_class_name": name})
    with pytest.raises(InputError, match="must name a scheduler of diffusers"):
        refuse_unserved(("interval", METHOD), info)
