"""Table of the diffusers schedulers that runs, gates and jobs know, and the refusal of all others.

Every entry calls the model once for each of ``scheduler.timesteps``, in their order, so that one
entry is one step of a controller. A new scheduler of a known kind is one line here, checked by
``tests/dqar/test_snr.py`` against the scheduler's own noising.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Noise = Literal["alphas", "sigmas", "flow", "angles", "formula"]
"""Source of a scheduler's noise level. ``alphas``: ``alphas_cumprod`` at the timestep.
``sigmas``: the step's sigma beside a signal of weight 1 (EDM, and solvers over sigmas). ``flow``:
the step's sigma beside a signal of weight ``1 - sigma``. ``angles``: the timestep is the angle of
a trigonometric flow. ``formula``: Wuerstchen's ``_alpha_cumprod`` of the timestep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerKind:
    """Properties of a scheduler class that its object does not tell."""

    noise: Noise
    """Source of the noise level of a step."""
    calls: int = 1
    """Most calls of the model in one solver step; each is an entry of the scheduler's timesteps."""
    is_random: bool = False
    """True if a step draws noise, so that two runs from the same noise differ."""


def _kinds(kind: SchedulerKind, *names: str) -> dict[str, SchedulerKind]:
    return dict.fromkeys((f"{name}Scheduler" for name in names), kind)


SUPPORTED: dict[str, SchedulerKind] = {
    **_kinds(SchedulerKind(noise="alphas"), "CogVideoXDDIM", "DDIM", "DDIMInverse", "DDIMParallel"),
    **_kinds(
        SchedulerKind(noise="alphas", is_random=True),
        *("CogVideoXDPM", "DDPM", "DDPMParallel", "LCM", "TCD", "UnCLIP"),
    ),
    **_kinds(SchedulerKind(noise="alphas", calls=4), "PNDM"),  # Runge-Kutta in its first steps
    **_kinds(
        SchedulerKind(noise="sigmas"),
        *("DEISMultistep", "DPMSolverMultistep", "DPMSolverMultistepInverse"),
        *("DPMSolverSinglestep", "EDMDPMSolverMultistep", "EDMEuler", "EulerDiscrete"),
        *("LMSDiscrete", "UniPCMultistep"),
    ),
    **_kinds(SchedulerKind(noise="sigmas", calls=2), "HeunDiscrete", "KDPM2Discrete"),
    **_kinds(
        SchedulerKind(noise="sigmas", is_random=True),
        *("CMStochasticIterative", "CosineDPMSolverMultistep", "EulerAncestralDiscrete"),
        *("SASolver",),
    ),
    **_kinds(
        SchedulerKind(noise="sigmas", calls=2, is_random=True),
        *("DPMSolverSDE", "KDPM2AncestralDiscrete"),
    ),
    **_kinds(
        SchedulerKind(noise="flow"),
        *("FlowMapEulerDiscrete", "FlowMatchEulerDiscrete", "MiniMaxH3", "Piflow"),
    ),
    **_kinds(SchedulerKind(noise="flow", calls=2), "FlowMatchHeunDiscrete"),
    **_kinds(SchedulerKind(noise="flow", is_random=True), "FlowMatchLCM", "LTXEulerAncestralRF"),
    **_kinds(SchedulerKind(noise="angles", is_random=True), "SCM"),
    **_kinds(SchedulerKind(noise="formula", is_random=True), "DDPMWuerstchen"),
}
"""Kind of each supported scheduler, by its class's name in diffusers."""
FLOW_FLAG = "use_flow_sigmas"
"""Setting with which a solver over sigmas follows a flow in place of its betas."""


def kind_of(scheduler: Any) -> SchedulerKind | None:
    """Return the kind of a scheduler, of its nearest base class in the table; None without one."""
    names = [base.__name__ for base in type(scheduler).__mro__]
    return next((SUPPORTED[name] for name in names if name in SUPPORTED), None)


def require_supported(scheduler: Any) -> None:
    """Refuse a scheduler of diffusers that is not in the table.

    An object that is no diffusers scheduler passes: whoever hands it in answers for its timesteps.

    Raises:
        ValueError: naming the class.
    """
    names = {base.__name__ for base in type(scheduler).__mro__}
    if "SchedulerMixin" in names and not names & SUPPORTED.keys():
        raise ValueError(
            "scheduler must be one of the supported schedulers, or a subclass of one. Got "
            f"{type(scheduler).__name__}. Pass one of dqar.scheduler_table.SUPPORTED, such as "
            "DDIMScheduler or FlowMatchEulerDiscreteScheduler, or add its kind there."
        )


def noise_of(scheduler: Any) -> Noise | None:
    """Return the source of a scheduler's noise level, by its class and settings.

    Raises:
        ValueError: as :func:`require_supported`.
    """
    require_supported(scheduler)
    kind = kind_of(scheduler)
    if kind is not None and setting(scheduler, FLOW_FLAG):
        return "flow"
    return None if kind is None else kind.noise


def is_random(scheduler: Any) -> bool:
    """True if two runs of a scheduler from the same noise may differ, by its class and settings."""
    kind = kind_of(scheduler)
    return (
        (kind is not None and kind.is_random)
        or bool(setting(scheduler, "stochastic_sampling"))
        or str(setting(scheduler, "algorithm_type")).startswith("sde")
    )


def setting(scheduler: Any, name: str) -> Any:
    """Return a setting of a scheduler's configuration; None without it."""
    return getattr(scheduler, "config", {}).get(name)
