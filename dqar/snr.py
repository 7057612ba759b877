"""Signal-to-noise ratio of a diffusion step, from a scheduler, a formula or a noise prediction."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dqar.scheduler_table import noise_of, setting

SMALLEST_POWER = 1e-12
"""Floor of a noise power, so that the SNR of a clean latent stays finite."""


def scheduler_snr(scheduler: Any, timestep: float, *, step: int | None = None) -> float:
    """SNR of a diffusers scheduler at a timestep: ``(alpha_t / sigma_t)^2``.

    The ratio assumes data of unit variance (Kingma et al. 2021, eq. 2) and ignores the scheduler's
    own ``sigma_data``, so that equally noisy latents have equal SNR under every scheduler.

    Where the noise level is read follows from :data:`dqar.scheduler_table.SUPPORTED`: ``(alpha,
    sigma)`` is ``(1 - sigma, sigma)`` at a step of a flow, and ``(1, sigma)`` at a step of
    exploding variance (EDM, consistency models). Every other scheduler, and a timestep between two
    steps, is read from ``alphas_cumprod``, linearly in log SNR between integer timesteps. At most
    1e12.

    Args:
        scheduler: diffusers scheduler.
        timestep: one of its timesteps.
        step: index of the timestep in the scheduler's timesteps, which tells repeated timesteps
            apart; by default the first one that the scheduler has not yet passed.

    Raises:
        ValueError: if the scheduler is not in the table, or has no noise level for that timestep.
    """
    noise = noise_of(scheduler)
    sigma = _step_sigma(scheduler, timestep, step)
    is_flow = noise == "flow" if noise else _is_like_flow(scheduler)
    if sigma is not None:
        return flow_snr(sigma) if is_flow else _ratio(1.0, sigma**2)
    if _has_table(scheduler) and not is_flow:
        return _table_snr(scheduler.alphas_cumprod, timestep)
    if noise == "angles":
        return _ratio(math.cos(timestep) ** 2, math.sin(timestep) ** 2)
    if noise == "formula":  # continuous in [0, 1]
        return _power_snr(float(scheduler._alpha_cumprod(torch.tensor(timestep), "cpu")))
    raise ValueError(
        "scheduler must have alphas_cumprod, or a sigma for the timestep. Got "
        f"{type(scheduler).__name__}, {timestep=}. Call set_timesteps, and pass one of "
        "scheduler.timesteps."
    )


def gate_snr(
    scheduler: Any, timestep: float, reader: str | None, *, step: int | None = None
) -> float | None:
    """Return :func:`scheduler_snr` for the gate or sink that reads it; None if nothing does.

    Args:
        reader: name of what reads the SNR, or None.

    Raises:
        ValueError: naming reader and scheduler, if the scheduler has no SNR at that timestep.
    """
    if reader is None:
        return None
    try:
        return scheduler_snr(scheduler, timestep, step=step)
    except ValueError as error:
        raise ValueError(
            f"{reader} reads the SNR, so the scheduler must have one at each of its timesteps. "
            f"Got {type(scheduler).__name__}, {timestep=}. Choose another scheduler, or a gate "
            "that reads no SNR, such as Interval."
        ) from error


def _step_sigma(scheduler: Any, timestep: float, step: int | None) -> float | None:
    """The scheduler's sigma at the step with this timestep, if it has such a step."""
    steps, sigmas = (getattr(scheduler, name, None) for name in ("timesteps", "sigmas"))
    if steps is None or sigmas is None or not 0 <= len(sigmas) - len(steps) <= 2:
        return None  # one or two extra sigmas end a run; K-DPM-2 has more, for its midpoints
    if hasattr(scheduler, "mid_point_sigma"):
        return None  # DPM-Solver SDE calls the model between its sigmas as well
    if _has_table(scheduler) and getattr(scheduler, "num_inference_steps", None) is None:
        return None  # DPM-Solvers hold sigmas in the opposite order until set_timesteps
    places = [place for place, one in enumerate(steps.tolist()) if one == timestep]
    if not places:
        return None
    sigma = float(sigmas[step if step in places else _next_of(scheduler, places)])
    return 1.0 - sigma if setting(scheduler, "invert_sigmas") else sigma


def _next_of(scheduler: Any, places: list[int]) -> int:
    # Rounding makes timesteps equal whose sigmas differ: take the first one not yet passed.
    reached = getattr(scheduler, "step_index", None) or getattr(scheduler, "begin_index", None) or 0
    return next((place for place in places if place >= reached), places[0])


def _has_table(scheduler: Any) -> bool:
    return getattr(scheduler, "alphas_cumprod", None) is not None


def _is_like_flow(scheduler: Any) -> bool:
    """True if an object that is no scheduler of the table has sigmas like those of a flow."""
    if _has_table(scheduler):
        return False
    sigmas = getattr(scheduler, "sigmas", None)
    # A flow's largest sigma is 1 up to rounding; exploding variance starts far above 1.
    return sigmas is not None and float(sigmas.max()) < 1.01


def _table_snr(alphas: Float[Tensor, " t"], timestep: float) -> float:
    last = len(alphas) - 1
    if not 0 <= timestep <= last:
        raise ValueError(
            f"timestep must be in [0, {last}]. Got {timestep=}. Pass one of scheduler.timesteps."
        )
    below, above = math.floor(timestep), math.ceil(timestep)
    low, high = (_power_snr(float(alphas[place])) for place in (below, above))
    if below == above:
        return low
    low, high = (math.log(max(snr, SMALLEST_POWER)) for snr in (low, high))
    return math.exp(low + (timestep - below) * (high - low))


def _power_snr(alpha_bar: float) -> float:
    return _ratio(alpha_bar, 1.0 - alpha_bar)


def _ratio(inputs: float, noise: float) -> float:
    return inputs / max(noise, SMALLEST_POWER)


def cosine_snr(progress: float) -> float:
    """SNR of the DQAR talk's cosine schedule, ``alpha_bar = cos(pi/2 * progress)^2``.

    Args:
        progress: share of the noising process, from 0 (clean) to 1 (pure noise).
    """
    return _power_snr(math.cos(0.5 * math.pi * progress) ** 2)


def flow_snr(sigma: float) -> float:
    """SNR of a rectified flow, ``x_t = (1 - sigma) x_0 + sigma noise``:
    ``((1 - sigma) / sigma)^2``."""
    return _ratio((1.0 - sigma) ** 2, sigma**2)


def predicted_snr(
    latent: Float[Tensor, "b *axes"],
    noise_prediction: Float[Tensor, "b *axes"],
    alpha_bar: float,
    *,
    epsilon: float = 1e-6,
) -> Float[Tensor, " b"]:
    """SNR of each sample from the model's own noise prediction (the DQAR talk, slide 4).

    ``||x0_hat||^2 / (||x_t - x0_hat||^2 + epsilon)`` with
    ``x0_hat = (x_t - sqrt(1 - alpha_bar) noise) / sqrt(alpha_bar)``. For data of unit variance this
    is about ``1 / (2 - 2 sqrt(alpha_bar))``, which differs from :func:`scheduler_snr`.

    Raises:
        ValueError: if ``alpha_bar`` is outside (0, 1].
    """
    if not 0.0 < alpha_bar <= 1.0:
        raise ValueError(
            f"alpha_bar must be in (0, 1]. Got {alpha_bar=}. Skip steps whose latent is pure noise."
        )
    latent, noise = latent.float().flatten(1), noise_prediction.float().flatten(1)
    clean = (latent - math.sqrt(1.0 - alpha_bar) * noise) / math.sqrt(alpha_bar)
    return clean.square().sum(dim=1) / ((latent - clean).square().sum(dim=1) + epsilon)
