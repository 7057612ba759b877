"""The replay of the forecast benchmark is the library's forecast where the variable is the step."""

from __future__ import annotations

import pytest
import torch

from benchmarks.quality.forecast_variables import (
    SAMPLER,
    Measurement,
    Replay,
    newton,
    places_of,
    replaying,
    spaced,
    with_ratios,
)
from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.rules import MaskGate
from dqar.integration import DQARDiTWrapper, DQARSampler, SamplerConfig
from pipeline.models.loading import load_model
from pipeline.models.model_info import find_model

STEPS = 10

# NumPy warns of how diffusers' schedulers hand it tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture(scope="module")
def model():
    return load_model(find_model("digits"), sampler=SAMPLER, dtype="fp32", device="cpu")


@pytest.mark.parametrize("order", [1, 2])
def test_a_replay_over_steps_is_the_controllers_run(model, order):
    computed = spaced(STEPS, 5, 1.5)
    sampling = SamplerConfig(num_inference_steps=STEPS, guidance_scale=2.0)
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    replay = Replay(computed=computed, places=list(map(float, range(STEPS))), order=order)
    with replaying(model.transformer, replay):
        found = DQARSampler(model.transformer, model.scheduler, sampling).sample(
            2, [1, 2], latents=noise
        )
    mask = torch.tensor([step not in computed for step in range(STEPS)])[:, None, None]
    config = DQARConfig(sites=("attn", "ff"), quantization_bits=32, forecast_order=order)
    controller = DQARController(config, gate=MaskGate(mask))
    wrapper = DQARDiTWrapper(model.transformer, controller=controller)
    expected = DQARSampler(wrapper, model.scheduler, sampling).sample(2, [1, 2], latents=noise)
    wrapper.unpatch()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_stack_that_computes_every_step_is_the_model(model):
    measurement = Measurement(model, 6, 2, 31)
    errors = measurement.errors("evaluate", frozenset(range(6)), "step", 2)
    assert max(errors) < 1e-5
    assert min(measurement.errors("evaluate", frozenset({0, 2, 5}), "step", 2)) > 1e-3


@pytest.mark.parametrize("order", [1, 2])
def test_a_forecast_is_exact_for_polynomials_of_its_order(order):
    def curve(place):
        return torch.tensor([1.0 + 2.0 * place - 0.5 * place**order], dtype=torch.float64)

    known = [(place, curve(place)) for place in (3.5, 2.0, 0.25)[: order + 1]]
    torch.testing.assert_close(newton(known, 7.0), curve(7.0))


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("computed", [2, 10, 20])
def test_a_spacing_has_its_number_of_steps_from_first_to_last(computed, power):
    found = sorted(spaced(50, computed, power))
    assert len(found) == computed
    assert (found[0], found[-1]) == (0, 49)


def test_every_variable_runs_one_way_over_the_steps(model):
    model.scheduler.set_timesteps(20)
    for variable in ("step", "timestep", "log_snr", "angle", "sigma"):
        places = torch.tensor(places_of(model.scheduler, variable), dtype=torch.float64)
        assert len(set(places.diff().sign().tolist()) - {0.0}) == 1


def test_a_row_chooses_by_calibration_and_compares_by_pairs(model):
    measurement = Measurement(model, 8, 2, 31)
    rows = with_ratios([measurement.row(variable, 1, 5) for variable in ("step", "sigma")])
    assert rows[0]["ratio_to_step"] == 1.0
    low, high = rows[1]["ratio_to_step_ci95"]
    assert low < rows[1]["ratio_to_step"] < high
