"""Training: traces in, a policy folder out, with the figures that say how far to trust it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dqar.policy import ReusePolicy
from dqar.policy_file import save_policy
from dqar.policy_spec import CACHE_BITS, PolicySpec
from dqar.records import ACTIONS, FEATURE_SETS
from pipeline.attribution import DamageModel, FitConfig, ReusedGates, fit_damage, fit_local
from pipeline.balance import Balance, check_balance
from pipeline.commit import Traces, open_traces
from pipeline.door import Refusal
from pipeline.fit_data import (
    Allowed,
    allowed_of,
    load_reused_gates,
    local_labels,
    max_gap_of,
    shows,
)
from pipeline.heldout import HeldOut, judge
from pipeline.planning import max_stretch_of, planned, snrs_of

HELD_OUT_SHARE = 5
"""Every fifth noise is held out; trajectories of one noise stay together."""

APART = ("depth", "site_code")
"""Features that tell the gates of one step apart before a run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """What to fit."""

    features: Literal["seed", "schedule", "full"] = "schedule"
    """The named feature set. ``schedule`` is known before a run, so that the policy plans whole
    runs and measures nothing; with the others it decides step by step."""
    label: Literal["final", "local"] = "final"
    """``final`` attributes the final delta; ``local`` learns one-step errors, for comparison."""
    sites: tuple[str, ...] = ()
    """Sites to learn; all that the traces hold by default."""
    granularity: Literal["gate", "step"] = "step"
    """Whether layers are decided one by one or together."""
    forecast_orders: tuple[int, ...] = ()
    """Orders of forecasts that plans may show; all that the traces hold by default. A policy that
    decides step by step shows the first, and learns from trajectories that showed it."""
    members: int = 4
    """Networks whose mean is the policy."""
    seed: int = 0
    """Seed of the weights."""

    @property
    def names(self) -> tuple[str, ...]:
        """The features. Gates that are decided together need none that tells them apart."""
        everything = FEATURE_SETS[self.features]
        return tuple(name for name in everything if not (self.plans and name in APART))

    @property
    def plans(self) -> bool:
        """Whether the policy plans whole runs."""
        return self.granularity == "step" and self.features == "schedule"

    def fit_config(self) -> FitConfig:
        """The fit that these values describe."""
        return FitConfig(seed=self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A policy and what held-out trajectories say of it."""

    policy: ReusePolicy
    held_out: HeldOut
    balance: Balance
    """Whether the traces' propensities are right."""
    traces: Traces


def train(
    config: TrainConfig, uri: str, report: Callable[[int, float], None] = lambda step, loss: None
) -> Trained:
    """Fit on four fifths of the noises, judge on the rest, then fit on all of them.

    Raises:
        Refusal: if the traces cannot be read or do not hold the sites asked for.
    """
    traces = open_traces(uri)
    sites, orders = _sites(config, traces), _orders(config, traces)
    gates = load_reused_gates(uri, config.names, sites)
    usable = torch.ones_like(gates.noise) > 0 if config.plans else shows(uri, orders[0])
    is_held_out = _held_out(gates, usable)
    spec = _spec(config, traces, sites, gates, uri, orders[0])

    def fit(chosen: Tensor, tell: Callable[[int, float], None]) -> DamageModel:
        return _fit(config, spec, gates.subset(chosen), allowed_of(uri, chosen), tell)

    trial = fit(usable & ~is_held_out, lambda step, loss: None)
    fitted, judged = gates.subset(usable & ~is_held_out), gates.subset(usable & is_held_out)
    held_out = judge(trial, fitted, judged, seed=config.seed)
    policy = _at_its_median(fit(usable, report).policy, gates, held_out)
    if config.plans:
        policy = planned(policy, snrs_of(uri), orders, max_stretch_of(gates, config.names))
    return Trained(policy=policy, held_out=held_out, balance=check_balance(uri), traces=traces)


def _sites(config: TrainConfig, traces: Traces) -> tuple[str, ...]:
    sites = config.sites or tuple(traces.plan["sites"])
    if missing := set(sites) - set(traces.plan["sites"]):
        raise Refusal(
            f"--sites must be among the traces' {traces.plan['sites']}. Got {sorted(missing)}. "
            "Collect with those sites first."
        )
    if config.label == "final" and set(sites) != set(traces.plan["sites"]):
        raise Refusal(
            f"--sites must be all of the traces' {traces.plan['sites']} for --label final. Got "
            f"{sites}: the final error is of all sites together. Collect with those sites alone."
        )
    return sites


def _held_out(gates: ReusedGates, usable: Tensor) -> Tensor:
    """Every fifth noise, by trajectory."""
    is_held_out = gates.noise % HELD_OUT_SHARE == 0
    if not (usable & is_held_out).any() or not (usable & ~is_held_out).any():
        raise Refusal(
            f"--traces must hold at least two noises. Got {int(gates.noise.max()) + 1}, with "
            f"{int(usable.sum())} trajectories to learn from. Collect more trajectories."
        )
    return is_held_out


def _at_its_median(policy: ReusePolicy, gates: ReusedGates, held_out: HeldOut) -> ReusePolicy:
    threshold = float(policy(gates.features).median())
    # JSON knows no NaN, which the AUC is where all held-out trajectories ended alike.
    metrics = {
        name: round(value, 6) for name, value in held_out.metrics.items() if np.isfinite(value)
    }
    return _with_spec(policy, log_threshold=threshold, metrics=metrics)


def _orders(config: TrainConfig, traces: Traces) -> tuple[int, ...]:
    explored = tuple(sorted(set(traces.plan.get("forecast_orders", [0]))))
    if missing := set(config.forecast_orders) - set(explored):
        raise Refusal(
            f"--forecast-orders must be among the traces' {explored}. Got {sorted(missing)}. "
            "Collect with those orders first."
        )
    return config.forecast_orders or explored


def _spec(
    config: TrainConfig,
    traces: Traces,
    sites: tuple[str, ...],
    gates: ReusedGates,
    uri: str,
    order: int,
) -> PolicySpec:
    plan = traces.plan
    is_constant = gates.features.std(dim=0) < 1e-6
    scales = torch.where(is_constant, 1.0, gates.features.std(dim=0))
    return PolicySpec(
        features=config.names,
        means=tuple(gates.features.mean(dim=0).tolist()),
        scales=tuple(scales.tolist()),
        members=config.members,
        granularity=config.granularity,
        max_gap=max_gap_of(uri),
        savings=_relative_savings(traces.manifest["site_flops"], sites),
        sites=sites,
        forecast_order=order,
        actions=("compute", *ACTIONS[: order + 1]),
        cache_mode={bits: name for name, bits in CACHE_BITS.items()}[plan["cache_bits"]],
        branch_mode=plan["branch_mode"],
        num_layers=traces.manifest["num_layers"],
        steps=plan["steps"],
        sampler=plan["sampler"],
        guidance=plan["guidance_scale"],
        model_hash=plan["model_hash"],
        trace_digest=traces.digest,
    )


def _relative_savings(site_flops: dict[str, float], sites: tuple[str, ...]) -> dict[str, float]:
    mean = sum(site_flops[site] for site in sites) / len(sites)
    return {site: site_flops[site] / mean for site in sites}


def _fit(
    config: TrainConfig,
    spec: PolicySpec,
    gates: ReusedGates,
    allowed: Allowed,
    report: Callable[[int, float], None],
) -> DamageModel:
    if config.label == "final":
        return fit_damage(spec, gates, config.fit_config(), report)
    features, log_error = local_labels(allowed, spec.features, spec.sites)
    policy = fit_local(spec, features, log_error, config.fit_config())
    return DamageModel(policy=policy, log_floor=-30.0)


def _with_spec(policy: ReusePolicy, **changes: Any) -> ReusePolicy:
    changed = ReusePolicy(replace(policy.spec, **changes))
    changed.load_state_dict(policy.state_dict())
    return changed.eval().requires_grad_(False)


def save_trained(trained: Trained, folder: Path, lineage: dict[str, str]) -> ReusePolicy:
    """Write the policy folder with the runs that led to it; returns the policy as saved."""
    policy = _with_spec(trained.policy, lineage=lineage)
    save_policy(policy, folder)
    return policy
