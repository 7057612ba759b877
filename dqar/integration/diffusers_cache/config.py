"""The schedule of a cache that is applied to a transformer alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.rules import Interval
from dqar.policy.network import ReusePolicy
from dqar.schedules.static_plan import StaticPlan

SCHEDULES = ("plan", "policy", "interval")


@dataclass(frozen=True, kw_only=True, slots=True)
class DQARCacheConfig:
    """The schedule of a cache: a plan, a policy, or an interval."""

    plan: StaticPlan | None = None
    """Plan to follow. If it holds timesteps, each call is the step of its timestep; otherwise the
    first call of a run is step 0."""
    policy: ReusePolicy | None = None
    """Policy to follow, for as many steps as it was trained for."""
    interval: int | None = None
    """Compute every ``interval``-th step and reuse at all others."""
    sites: tuple[str, ...] | None = None
    """Sites to reuse by ``interval``, ``attn`` by default; a plan and a policy have their own."""
    forecast_order: Literal[0, 1, 2] = 0
    """Order of the forecasts that ``interval`` shows; a plan and a policy have their own."""
    quantization_bits: Literal[2, 4, 8, 16, 32] = 8
    """Bits of a cached value of a plan or an interval."""
    rises: bool | None = None
    """True if the transformer is called with timesteps that rise from noise to data; None knows it
    for diffusers' own pipelines."""

    def __post_init__(self) -> None:
        given = [name for name in SCHEDULES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "A cache must have one of plan, policy and interval. Got "
                f"{', '.join(given) or 'none'}. Pass one of them, such as interval=2."
            )
        if self.interval is None and (self.sites is not None or self.forecast_order):
            raise ValueError(
                f"sites and forecast_order must come with interval. Got {self.sites} and "
                f"{self.forecast_order} beside {given[0]}, which has its own. Leave them out."
            )
        if self.interval is not None and self.interval < 1:
            raise ValueError(f"interval must be at least 1. Got {self.interval}. Pass 2.")
        if self.policy is not None and not self.policy.spec.steps:
            raise ValueError(
                "A policy must know its number of steps. Got one without. Patch the pipeline with "
                "patch_pipeline, or train the policy again."
            )
        if (reader := self.controller().snr_reader) is not None:
            raise ValueError(
                f"A cache must not read the SNR, since it knows no scheduler. Got {reader}. Patch "
                "the pipeline with patch_pipeline, or pass a plan."
            )

    def controller(self) -> DQARController:
        """Make a controller that follows the schedule.

        Raises:
            ValueError: if a plan mixes forecast orders.
        """
        if self.policy is not None:
            return DQARController.of_policy(self.policy)
        if self.plan is not None:
            return DQARController(self._stored(self.plan.config()), gate=self.plan.gate())
        config = DQARConfig(
            sites=self.sites or DQARConfig().sites, forecast_order=self.forecast_order
        )
        return DQARController(self._stored(config), gate=Interval(self.interval or 1))

    def _stored(self, config: DQARConfig) -> DQARConfig:
        return replace(config, quantization_bits=self.quantization_bits)

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Timesteps of the schedule, if it holds them."""
        return () if self.plan is None else self.plan.timesteps

    @property
    def total(self) -> int | None:
        """Number of steps; None if any number fits."""
        if self.plan is not None:
            return self.plan.steps
        return None if self.policy is None else self.policy.spec.steps
