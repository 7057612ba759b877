"""Configuration of a training, and the sites and settings that the traces allow it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dqar.config_file import read_yaml
from dqar.finite_fields import require_finite
from dqar.records import FEATURE_SETS
from dqar.step_schedule import ReuseSetting
from pipeline.errors import InputError
from pipeline.traces.dataset import Traces
from pipeline.train.early_stopping import FitConfig
from pipeline.train.flags import TrainFlags, TrainSettings

APART = ("depth", "site_code")
"""Features that differ among the gates of one step and are known before a run."""
OF_SEVERAL_GATES = (*APART, "share_attn", "share_ff")
"""Features that a policy of the site ``stack`` does not read: its step is one gate, of which depth
and site are constant, and whose shares say no more than its age."""
STATES = ("log_gap", "log_span")
"""Features that every plan needs: the gap that it chooses, and the span before, which bounds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonSettings:
    """Settings of comparison experiments: the keys of ``jobs/train.py --config``."""

    target: Literal["final-error", "one-step-error"] = "final-error"
    """Error that the policy learns to predict: of the final latents, attributed to the reuses of a
    trajectory; or of the reused value itself, one step at a time."""


Label = Literal["final", "local"]
LABELS: dict[str, Label] = {"final-error": "final", "one-step-error": "local"}
"""Names of the targets in code and in MLflow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(TrainSettings):
    """Features, label, sites and settings of the policy to fit."""

    without: tuple[str, ...] = ()
    """Features of the set to leave out, for an ablation."""
    label: Label = LABELS[ComparisonSettings().target]
    """``final`` attributes the final error; ``local`` learns one-step errors, for comparison."""
    granularity: Literal["gate", "step"] = "step"
    """``step`` decides all layers of a step together, ``gate`` each alone."""
    feedbacks: tuple[float, ...] = ()
    """Gains of error feedback that plans may have; by default all that the traces hold, and with
    the label ``local`` the least alone: one-step errors do not show the effect of a gain. A policy
    that decides step by step has the first."""
    members: int = 4
    """Networks whose mean is the policy."""

    def __post_init__(self) -> None:
        require_finite(self, "feedbacks")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1. Got {self.seed}. Pass --seed 0.")
        if unknown := set(self.without) - set(FEATURE_SETS[self.features]):
            raise ValueError(
                f"without must be features of the set {self.features}: "
                f"{', '.join(FEATURE_SETS[self.features])}. Got {sorted(unknown)}. Check "
                "--drop-features."
            )
        fixed = {*STATES, *APART} if self.plans else set()
        if fixed & set(self.without) or not self.names:
            raise ValueError(
                "without must leave a feature, and log_gap and log_span to plans, which never "
                f"read depth and site_code. Got {self.without}. Leave out fewer with "
                "--drop-features."
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

    def for_sites(self, sites: tuple[str, ...]) -> TrainConfig:
        """Return the configuration without the features that mean nothing for these sites:
        :data:`OF_SEVERAL_GATES` for ``stack``."""
        if sites != ("stack",):
            return self
        dropped = set(OF_SEVERAL_GATES) & set(self.names)
        return replace(self, without=(*self.without, *sorted(dropped)))

    def fit_config(self) -> FitConfig:
        """Settings of the optimizer."""
        return FitConfig(seed=self.seed)


def train_config(flags: TrainFlags) -> TrainConfig:
    """The configuration of a training from its flags and the file of ``--config``.

    Raises:
        ValueError: if a value is out of range, or the file cannot be read.
    """
    settings = read_yaml(flags.config, ComparisonSettings) if flags.config else ComparisonSettings()
    return TrainConfig(
        **{name: getattr(flags, name) for name in TrainSettings.__dataclass_fields__},
        without=flags.drop_features,
        feedbacks=flags.error_feedback,
        label=LABELS[settings.target],
    )


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
            f"--sites must be all of the traces' {traces.plan['sites']} for the target "
            f"final-error. Got {sites}: the final error is of all sites together. Collect with "
            "those sites alone."
        )
    return sites


def settings_of(config: TrainConfig, traces: Traces) -> tuple[ReuseSetting, ...]:
    """Combinations of forecast order and gain that plans may have: those asked for, by default all
    that the traces explored.

    Raises:
        InputError: if they did not explore what is asked for.
    """
    orders = _chosen("--forecast-orders", config.forecast_orders, traces.forecast_orders)
    gains = _chosen("--error-feedback", config.feedbacks, traces.feedbacks)
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
