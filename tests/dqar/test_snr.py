"""SNR of every image scheduler of diffusers, compared with the scheduler's ``add_noise``."""

from __future__ import annotations

import copy
import itertools
import math
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqar.snr import cosine_snr, flow_snr, predicted_snr, scheduler_snr

# NumPy warns about the tensors that diffusers' solvers pass to NumPy functions.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
KARRAS = {"use_karras_sigmas": True}

BY_TABLE = [
    ("DDIMScheduler", {}),
    ("DDIMScheduler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
    ("DDIMScheduler", COSINE),
    ("DDIMParallelScheduler", {}),
    ("DDPMScheduler", {}),
    ("DDPMParallelScheduler", {}),
    ("DDPMWuerstchenScheduler", {}),
    ("CogVideoXDDIMScheduler", {}),
    ("CogVideoXDPMScheduler", {}),
    ("LCMScheduler", {}),
    ("PNDMScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("TCDScheduler", {}),
    ("UnCLIPScheduler", {}),
]
BY_SIGMA = [
    ("CMStochasticIterativeScheduler", {}),
    ("DEISMultistepScheduler", {}),
    ("DEISMultistepScheduler", FLOW),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", KARRAS),
    ("DPMSolverMultistepScheduler", COSINE),
    ("DPMSolverMultistepScheduler", FLOW),
    ("DPMSolverSinglestepScheduler", {"final_sigmas_type": "sigma_min"}),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("EDMEulerScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", KARRAS),
    ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous", "prediction_type": "v_prediction"}),
    ("FlowMapEulerDiscreteScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchHeunDiscreteScheduler", {}),
    ("FlowMatchLCMScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("MiniMaxH3Scheduler", {}),
    ("SASolverScheduler", {}),
    ("UniPCMultistepScheduler", {}),
    ("UniPCMultistepScheduler", FLOW),
]
WITHOUT_NOISING = [
    ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("LTXEulerAncestralRFScheduler", {}),
    ("PiflowScheduler", {}),
]
"""Schedulers without a usable ``add_noise``: it is missing, leaves out the inversion of sigmas, or
does not know the model's calls between two sigmas."""


def scheduled(name, changes, steps=20):
    scheduler = getattr(diffusers, name)(**changes)
    scheduler.set_timesteps(steps)
    return scheduler


def snr_of(scheduler):
    return [scheduler_snr(scheduler, float(timestep)) for timestep in scheduler.timesteps]


def noised_snr(scheduler, timestep):
    """Return ``(alpha / sigma)^2``, measured by ``add_noise``: alpha on an image of ones without
    noise, sigma on an image of zeros with noise of ones."""
    scheduler = copy.deepcopy(scheduler)  # some keep the index of the noised step
    one, zero = torch.ones(1, 1, 1, 1).double(), torch.zeros(1, 1, 1, 1).double()
    times = timestep.reshape(1)
    if hasattr(scheduler, "add_noise"):
        alpha, sigma = (scheduler.add_noise(*pair, times) for pair in ((one, zero), (zero, one)))
        return float(alpha / sigma) ** 2
    alpha = scheduler.scale_noise(one, times, zero)
    return float(alpha / scheduler.scale_noise(zero, times, one)) ** 2


@pytest.mark.parametrize(("name", "changes"), BY_TABLE + BY_SIGMA + WITHOUT_NOISING)
def test_snr_rises_from_noise_to_image(name, changes):
    snr = snr_of(scheduled(name, changes))
    assert all(math.isfinite(value) and value >= 0 for value in snr)
    assert all(before <= after for before, after in itertools.pairwise(snr))
    assert snr[0] < 0.01
    assert snr[-1] > 2.0


@pytest.mark.parametrize(("name", "changes"), BY_TABLE + BY_SIGMA)
def test_snr_is_that_of_the_schedulers_own_noising(name, changes):
    scheduler = scheduled(name, changes)
    expected = [noised_snr(scheduler, timestep) for timestep in scheduler.timesteps]
    assert snr_of(scheduler) == pytest.approx(expected, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("name", ["KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"])
def test_calls_between_two_sigmas_lie_between_their_snr(name):
    scheduler = scheduled(name, {})
    snr = snr_of(scheduler)
    sigmas = [float(sigma) for sigma in scheduler.sigmas[: len(snr) : 2]]
    assert snr[::2] == pytest.approx([sigma**-2 for sigma in sigmas], rel=1e-4)
    middle = list(zip(snr[:-2:2], snr[1:-1:2], snr[2::2], strict=True))
    assert all(before < between <= after for before, between, after in middle)


def test_a_solver_with_midpoints_is_read_from_its_table(ddim):
    # A fake of DPMSolverSDEScheduler, which needs torchsde: its sigmas leave out the midpoints.
    scheduler = SimpleNamespace(
        alphas_cumprod=ddim.alphas_cumprod,
        timesteps=torch.tensor([900.0, 850.0, 800.0]),
        sigmas=torch.tensor([9.0, 4.0, 4.0, 0.0]),
        mid_point_sigma=None,
        num_inference_steps=2,
    )
    assert snr_of(scheduler) == [
        scheduler_snr(ddim, timestep) for timestep in (900.0, 850.0, 800.0)
    ]


def test_equal_timesteps_are_resolved_by_the_samplers_step():
    scheduler = scheduled("DPMSolverMultistepScheduler", COSINE | KARRAS)
    assert len(scheduler.timesteps.unique()) < len(scheduler.timesteps)
    scheduler.set_begin_index(0)
    sample, snr = torch.ones(1, 1, 2, 2), []
    for timestep in scheduler.timesteps:
        snr.append(scheduler_snr(scheduler, float(timestep)))
        sample = scheduler.step(torch.zeros_like(sample), timestep, sample).prev_sample
    assert snr == pytest.approx([float(sigma) ** -2 for sigma in scheduler.sigmas[:-1]])


def test_equal_timesteps_are_resolved_by_the_step_that_is_given():
    scheduler = scheduled("DPMSolverMultistepScheduler", COSINE | KARRAS)
    timesteps = scheduler.timesteps.double().tolist()
    snr = [scheduler_snr(scheduler, timestep, step=i) for i, timestep in enumerate(timesteps)]
    assert snr == pytest.approx([float(sigma) ** -2 for sigma in scheduler.sigmas[:-1]])


def test_equal_timesteps_are_resolved_by_the_begin_index_of_a_late_start():
    scheduler = scheduled("HeunDiscreteScheduler", {})
    scheduler.set_begin_index(6)
    assert scheduler.timesteps[5] == scheduler.timesteps[6]
    scheduler.sigmas[6] *= 2  # tells the two apart, which Heun's own are not
    assert scheduler_snr(scheduler, float(scheduler.timesteps[6])) == pytest.approx(
        float(scheduler.sigmas[6]) ** -2
    )


CUSTOM = [
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {"sigmas": [1.0, 0.7, 0.3, 0.05]}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, {"mu": 0.8}),
    ("EulerDiscreteScheduler", {}, {"sigmas": [14.6, 3.0, 0.5, 0.1, 0.0]}),
    ("EulerDiscreteScheduler", {}, {"timesteps": [901, 500, 37]}),
    ("DPMSolverMultistepScheduler", {}, {"timesteps": [999, 640, 88]}),
    ("UniPCMultistepScheduler", FLOW, {"sigmas": np.array([1.0, 0.6, 0.2])}),
    ("EDMEulerScheduler", {}, {"sigmas": torch.tensor([0.9, 0.4, 0.1])}),
    ("HeunDiscreteScheduler", {}, {"timesteps": [950, 600, 120]}),
]
"""Schedules that a pipeline sets itself. EDM's starts late, with sigmas that a flow might have."""


@pytest.mark.parametrize(("name", "changes", "schedule"), CUSTOM)
def test_snr_of_custom_sigmas_and_timesteps_is_that_of_the_schedulers_noising(
    name, changes, schedule
):
    scheduler = getattr(diffusers, name)(**changes)
    count = {} if schedule.keys() & {"sigmas", "timesteps"} else {"num_inference_steps": 4}
    scheduler.set_timesteps(**count, **schedule)
    expected = [noised_snr(scheduler, timestep) for timestep in scheduler.timesteps]
    assert snr_of(scheduler) == pytest.approx(expected, rel=1e-6)


@given(timestep=st.integers(0, 999))
def test_whole_timesteps_are_exact(timestep):
    alphas = diffusers.DDIMScheduler().alphas_cumprod
    alpha = float(alphas[timestep])
    assert scheduler_snr(diffusers.DDIMScheduler(), float(timestep)) == alpha / (1 - alpha)


@given(below=st.integers(0, 998), part=st.floats(0.001, 0.999))
def test_snr_between_timesteps_is_linear_in_its_logarithm(below, part):
    scheduler = diffusers.DDIMScheduler()
    low, high = (scheduler_snr(scheduler, float(below + place)) for place in (0, 1))
    expected = low ** (1 - part) * high**part
    assert scheduler_snr(scheduler, below + part) == pytest.approx(expected, rel=1e-6)


def test_snr_next_to_pure_noise_stays_finite():
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    assert scheduler_snr(scheduler, 999.0) == 0.0
    assert 0.0 < scheduler_snr(scheduler, 998.5) < scheduler_snr(scheduler, 998.0)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_unset_solver_is_read_from_its_table(name):
    scheduler = getattr(diffusers, name)()
    alpha = float(scheduler.alphas_cumprod[900])
    assert scheduler_snr(scheduler, 900.0) == pytest.approx(alpha / (1 - alpha))


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_edm_is_read_for_data_of_unit_variance(sigma_data):
    scheduler = scheduled("EDMEulerScheduler", {"sigma_data": sigma_data})
    expected = [float(sigma) ** -2 for sigma in scheduler.sigmas[:-1]]
    assert snr_of(scheduler) == pytest.approx(expected)


def test_trigonometric_flow_is_read_from_its_angle():
    scheduler = diffusers.SCMScheduler()
    scheduler.set_timesteps(2)
    assert scheduler_snr(scheduler, 1.3) == pytest.approx(math.tan(1.3) ** -2)
    assert 0.0 <= snr_of(scheduler)[0] < 1e-9
    assert snr_of(scheduler)[-1] == pytest.approx(1e12)


@pytest.mark.parametrize(
    "name",
    ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"],
)
def test_timestep_without_a_sigma_is_refused(name):
    with pytest.raises(ValueError, match="a sigma for the timestep"):
        scheduler_snr(scheduled(name, {}), 3.25)


@pytest.mark.parametrize("name", ["EntropyBoundScheduler", "IPNDMScheduler", "ScoreSdeVeScheduler"])
def test_scheduler_outside_the_table_is_refused(name):
    scheduler = scheduled(name, {})
    with pytest.raises(ValueError, match=rf"supported schedulers, or a subclass .* Got {name}\."):
        scheduler_snr(scheduler, float(scheduler.timesteps[3]))


def test_what_is_no_scheduler_is_refused():
    with pytest.raises(ValueError, match="Got object"):
        scheduler_snr(object(), 3.0)


def test_flow_solver_has_no_snr_before_its_steps_are_set():
    with pytest.raises(ValueError, match="Call set_timesteps"):
        scheduler_snr(diffusers.UniPCMultistepScheduler(**FLOW), 999.0)


@pytest.mark.parametrize("timestep", [-1.0, 999.5])
def test_timestep_outside_the_table_is_refused(ddim, timestep):
    with pytest.raises(ValueError, match=r"timestep must be in \[0, 999\]"):
        scheduler_snr(ddim, timestep)


def test_cosine_snr_is_one_half_way():
    assert cosine_snr(0.5) == pytest.approx(1.0)
    assert cosine_snr(0.0) == pytest.approx(1e12)
    assert cosine_snr(1.0) == pytest.approx(0.0, abs=1e-12)


@given(progress=st.floats(0.01, 0.99))
def test_cosine_snr_is_the_cotangent_squared(progress):
    assert cosine_snr(progress) == pytest.approx(math.tan(0.5 * math.pi * progress) ** -2)


@given(sigma=st.floats(0.001, 1.0))
def test_flow_snr_is_the_ratio_squared(sigma):
    assert flow_snr(sigma) == pytest.approx((1 / sigma - 1) ** 2)
    assert flow_snr(0.0) == pytest.approx(1e12)


def noised(seed, alpha_bar, shape=(3, 4, 32, 32)):
    generator = torch.Generator().manual_seed(seed)
    clean, noise = (torch.randn(shape, generator=generator) for _ in range(2))
    return clean, noise, math.sqrt(alpha_bar) * clean + math.sqrt(1 - alpha_bar) * noise


@given(seed=st.integers(0, 2**31), alpha_bar=st.floats(0.01, 0.999))
def test_predicted_snr_of_the_true_noise_is_that_of_the_clean_sample(seed, alpha_bar):
    clean, noise, latent = noised(seed, alpha_bar, (2, 3, 4))
    away = (latent - clean).double().flatten(1).square().sum(dim=1)
    expected = clean.double().flatten(1).square().sum(dim=1) / (away + 1e-6)
    snr = predicted_snr(latent, noise, alpha_bar)
    torch.testing.assert_close(snr.double(), expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("alpha_bar", [0.01, 0.25, 0.81])
def test_predicted_snr_of_unit_data_has_a_scale_of_its_own(alpha_bar):
    _, noise, latent = noised(0, alpha_bar)
    expected = torch.full((3,), 1 / (2 - 2 * math.sqrt(alpha_bar)))
    torch.testing.assert_close(predicted_snr(latent, noise, alpha_bar), expected, rtol=0.06, atol=0)


def test_predicted_snr_where_nothing_is_noise():
    latent = torch.ones(2, 1, 2, 2)
    snr = predicted_snr(latent, torch.randn(2, 1, 2, 2), 1.0, epsilon=1e-3)
    torch.testing.assert_close(snr, torch.full((2,), 4e3))


@pytest.mark.parametrize("alpha_bar", [0.0, 1.5])
def test_predicted_snr_refuses_what_holds_no_image(alpha_bar):
    latent = torch.ones(1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"alpha_bar must be in \(0, 1\]"):
        predicted_snr(latent, latent, alpha_bar)
