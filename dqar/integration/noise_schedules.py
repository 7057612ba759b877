"""The one conversion of a diffusers scheduler to the deterministic samplers of this library.

A sampler keeps the model's noise schedule and prediction type and brings its own solver. Only
schedulers of the table are converted: those whose noise schedule is ``alphas_cumprod`` made from
``betas``, and whose model was trained to predict at these timesteps.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

S = TypeVar("S")

CONVERTIBLE = frozenset(
    {
        "DDIMParallelScheduler",
        "DDIMScheduler",
        "DDPMParallelScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    }
)
"""Classes of schedulers whose noise schedule DDIM and DPM-Solver++ can take over."""
PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""Prediction types that DDIM and DPM-Solver++ know."""
SPACINGS = ("leading", "linspace", "trailing")
"""Spacings of timesteps that DDIM and DPM-Solver++ know."""
FLOW_FLAGS = ("use_flow_sigmas",)
"""Settings that replace ``alphas_cumprod`` by the sigmas of a flow."""


def convert_scheduler(kind: type[S], scheduler: Any, **settings: Any) -> S:
    """A sampler of class ``kind`` with a scheduler's noise schedule; itself if it is one already.

    Args:
        kind: ``DDIMScheduler``, or a multistep solver of diffusers (DPM-Solver++, UniPC, DEIS).
        scheduler: any scheduler of diffusers.
        settings: settings of the sampler in place of the scheduler's.

    Raises:
        ValueError: if the scheduler is not of the table, or the model does not predict noise,
            velocity or sample at its timesteps.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if name not in CONVERTIBLE:
        raise _not_convertible(kind, f"{name}, which is none of {', '.join(sorted(CONVERTIBLE))}")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise _not_convertible(kind, f"{name} with prediction_type {prediction!r:.40}")
    spacing = config.get("timestep_spacing", "leading")
    if spacing not in SPACINGS:
        raise _not_convertible(kind, f"{name} with timestep_spacing {spacing!r:.40}")
    if flags := [flag for flag in FLOW_FLAGS if config.get(flag)]:
        raise _not_convertible(kind, f"{name} with {flags[0]}=True")
    if isinstance(scheduler, kind) and not settings:
        return scheduler
    # DDIM clips by default; most other schedulers never clip, and have no such setting.
    clip = config.get("clip_sample", False)
    build: Any = kind.from_config  # pyright: ignore[reportAttributeAccessIssue] of diffusers' ConfigMixin
    try:
        converted = build(config, clip_sample=clip, **settings)
    except NotImplementedError as error:  # a solver's way to refuse some schedules of betas
        raise _not_convertible(kind, f"{name} with other betas: {str(error)[:100]}") from error
    if not _has_same_noise(converted, scheduler):
        raise _not_convertible(kind, f"{name} with other alphas_cumprod")
    return converted


def _not_convertible(kind: type, got: str) -> ValueError:
    return ValueError(
        f"The scheduler must have a noise schedule that {kind.__name__} can take over. Got {got}. "
        f"Pass a {kind.__name__} of the model's betas and prediction type."
    )


def _has_same_noise(converted: Any, scheduler: Any) -> bool:
    ours, theirs = converted.alphas_cumprod, getattr(scheduler, "alphas_cumprod", None)
    if theirs is None or theirs.shape != ours.shape:
        return False
    # A schedule that ends in pure noise is lifted from exactly 0 by some schedulers.
    return torch.allclose(ours, theirs.to(ours), atol=1e-6)
