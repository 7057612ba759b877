"""Configuration of a training, and the sites and settings that the traces allow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dqar.records import FEATURE_SETS
from dqar.step_schedule import ReuseSetting
from pipeline.errors import InputError
from pipeline.traces.dataset import Traces
from pipeline.train.early_stopping import FitConfig

APART = ("depth", "site_code")
"""Features that differ among the gates of one step and are known before a run."""
STATES = ("log_gap", "log_span")
"""Features that every plan needs: the gap that it chooses, and the span before, which bounds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Features, label, sites and settings of the policy to fit."""

    features: Literal["seed", "schedule", "full"] = "schedule"
    """The named feature set. ``schedule`` is known before a run, so that the policy plans whole
    runs and measures nothing; with the others it decides step by step."""
    without: tuple[str, ...] = ()
    """Features of that set to leave out, for an ablation."""
    label: Literal["final", "local"] = "final"
    """``final`` attributes the final delta; ``local`` learns one-step errors, for comparison."""
    sites: tuple[str, ...] = ()
    """Sites to learn; by default all that the traces hold."""
    granularity: Literal["gate", "step"] = "step"
    """``step`` decides all layers of a step together, ``gate`` each alone."""
    forecast_orders: tuple[int, ...] = ()
    """Forecast orders that plans may use; by default all that the traces hold. A policy that
    decides step by step uses the first, and learns from the trajectories that used it."""
    feedbacks: tuple[float, ...] = ()
    """Gains of error feedback that plans may have; by default all that the traces hold, and with
    the label ``local`` the least alone: one-step errors do not show the effect of a gain. A policy
    that decides step by step has the first."""
    members: int = 4
    """Networks whose mean is the policy."""
    seed: int = 0
    """Seed of the weights."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1. Got {self.seed}. Pass --seed 0.")
        if unknown := set(self.without) - set(FEATURE_SETS[self.features]):
            raise ValueError(
                f"without must be features of the set {self.features}: "
                f"{', '.join(FEATURE_SETS[self.features])}. Got {sorted(unknown)}. Check --without."
            )
        fixed = {*STATES, *APART} if self.plans else set()
        if fixed & set(self.without) or not self.names:
            raise ValueError(
                "without must leave a feature, and log_gap and log_span to plans, which never "
                f"read depth and site_code. Got {self.without}. Leave out fewer with --without."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Features that the network reads. A policy that plans reads none of :data:`APART`."""
        unused = {*self.without, *(APART if self.plans else ())}
        return tuple(name for name in FEATURE_SETS[self.features] if name not in unused)

    @property
    def plans(self) -> bool:
        """True where the policy plans whole runs."""
        return self.granularity == "step" and self.features == "schedule"

    def fit_config(self) -> FitConfig:
        """Settings of the optimizer."""
        return FitConfig(seed=self.seed)


def sites_of(config: TrainConfig, traces: Traces) -> tuple[str, ...]:
    """Sites to learn: those asked for, by default all of the traces.

    Raises:
        InputError: if the traces do not hold them.
    """
    sites = config.sites or tuple(traces.plan["sites"])
    if len(set(sites)) < len(sites):
        raise InputError(f"--sites must name each site once. Got {sites}. Pass each once.")
    if missing := set(sites) - set(traces.plan["sites"]):
        raise InputError(
            f"--sites must be among the traces' {traces.plan['sites']}. Got {sorted(missing)}. "
            "Collect with those sites first."
        )
    if config.label == "final" and set(sites) != set(traces.plan["sites"]):
        raise InputError(
            f"--sites must be all of the traces' {traces.plan['sites']} for --label final. Got "
            f"{sites}: the final error is of all sites together. Collect with those sites alone."
        )
    return sites


def settings_of(config: TrainConfig, traces: Traces) -> tuple[ReuseSetting, ...]:
    """Combinations of forecast order and gain that plans may have: those asked for, by default all
    that the traces explored.

    Raises:
        InputError: if they did not explore what is asked for.
    """
    orders = _chosen("--forecast-orders", config.forecast_orders, traces.forecast_orders)
    gains = _chosen("--feedback", config.feedbacks, traces.feedbacks)
    if config.label == "local":
        gains = (min(gains),)
    return tuple((order, gain) for order in orders for gain in gains)


def _chosen(flag: str, wanted: tuple, explored: tuple) -> tuple:
    if missing := set(wanted) - set(explored):
        raise InputError(
            f"{flag} must be among the traces' {explored}. Got {sorted(missing)}. "
            "Collect with those first."
        )
    return wanted or explored
