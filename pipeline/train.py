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
from dqar.policy_spec import PolicySpec
from dqar.records import FEATURE_SETS
from pipeline.attribution import DamageModel, FitConfig, ReusedGates, fit_damage, fit_local
from pipeline.balance import Balance, check_balance
from pipeline.commit import Traces, open_traces
from pipeline.dataset import read_trajectories, stream_gates
from pipeline.door import Refusal
from pipeline.heldout import HeldOut, judge
from pipeline.planning import max_stretch_of, planned, snrs_of

HELD_OUT_SHARE = 5
"""Every fifth noise is held out; trajectories of one noise stay together."""
MAX_GAP_QUANTILE = 0.995
"""Staleness seen more rarely than this in exploration is unknown to the policy."""

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
    """Orders of forecasts that plans may show; all that the traces hold by default."""
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
class Allowed:
    """Trajectories that a fit may see."""

    uri: str
    trajectory_ids: frozenset[str]


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
    orders = _orders(config, traces)
    gates = load_reused_gates(uri, config.names, sites)
    is_held_out = gates.noise % HELD_OUT_SHARE == 0
    if not is_held_out.any() or is_held_out.all():
        raise Refusal(
            f"--traces must hold at least two noises. Got {int(gates.noise.max()) + 1}. "
            "Collect more trajectories."
        )
    spec = _spec(config, traces, sites, gates, uri)
    fitted = gates.subset(~is_held_out)
    trial = _fit(config, spec, fitted, _fitted_ids(uri, ~is_held_out), lambda step, loss: None)
    held_out = judge(trial, fitted, gates.subset(is_held_out), seed=config.seed)
    everything = torch.ones_like(is_held_out)
    final = _fit(config, spec, gates, _fitted_ids(uri, everything), report)
    threshold = float(final.policy(gates.features).median())
    # JSON knows no NaN, which the AUC is where all held-out trajectories ended alike.
    metrics = {
        name: round(value, 6) for name, value in held_out.metrics.items() if np.isfinite(value)
    }
    policy = _with_spec(final.policy, log_threshold=threshold, metrics=metrics)
    if config.plans:
        policy = planned(policy, snrs_of(uri), orders, max_stretch_of(gates, config.names))
    balance = check_balance(uri)
    return Trained(policy=policy, held_out=held_out, balance=balance, traces=traces)


def _orders(config: TrainConfig, traces: Traces) -> tuple[int, ...]:
    explored = tuple(sorted(set(traces.plan.get("forecast_orders", [0]))))
    if missing := set(config.forecast_orders) - set(explored):
        raise Refusal(
            f"--forecast-orders must be among the traces' {explored}. Got {sorted(missing)}. "
            "Collect with those orders first."
        )
    return config.forecast_orders or explored


def load_reused_gates(uri: str, names: tuple[str, ...], sites: tuple[str, ...]) -> ReusedGates:
    """The reused gates of a dataset, trajectory by trajectory."""
    table = read_trajectories(uri)
    ids = table["trajectory_id"].to_pylist()
    position = {trajectory_id: index for index, trajectory_id in enumerate(ids)}
    features, trajectory = [], []
    columns = ["trajectory_id", "site", "action", *names]
    for batch in stream_gates(uri, columns, only_reused=True):
        wanted = np.isin(batch["site"].to_pylist(), sites)
        block = np.stack([batch[name].to_numpy(zero_copy_only=False) for name in names], axis=1)
        features.append(torch.from_numpy(block[wanted]))
        owners = [position[trajectory_id] for trajectory_id in batch["trajectory_id"].to_pylist()]
        trajectory.append(torch.tensor(owners)[torch.from_numpy(wanted)])
    error = torch.tensor(table["latent_rel_l2"].to_numpy())
    noise = torch.tensor(table["noise_id"].to_numpy())
    gates = ReusedGates(
        features=torch.cat(features),
        trajectory=torch.cat(trajectory),
        squared_error=error.square(),
        noise=torch.unique(noise, return_inverse=True)[1],
        weight=torch.ones(sum(map(len, features))),
    )
    return gates if "depth" in names else gates.collapsed()


def _spec(
    config: TrainConfig, traces: Traces, sites: tuple[str, ...], gates: ReusedGates, uri: str
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
        max_gap=_max_gap(uri),
        savings=_relative_savings(traces.manifest["site_flops"], sites),
        sites=sites,
        cache_mode={8: "int8", 16: "fp16", 32: "fp32"}[plan["cache_bits"]],
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


def _max_gap(uri: str) -> int:
    gaps = [
        batch["log_gap"].to_numpy()
        for batch in stream_gates(uri, ["log_gap", "action"], only_reused=True)
    ]
    return round(float(np.exp(np.quantile(np.concatenate(gaps), MAX_GAP_QUANTILE))))


def _fit(
    config: TrainConfig,
    spec: PolicySpec,
    gates: ReusedGates,
    allowed: Allowed,
    report: Callable[[int, float], None],
) -> DamageModel:
    if config.label == "final":
        return fit_damage(spec, gates, config.fit_config(), report)
    features, log_error = _local_labels(allowed, spec)
    policy = fit_local(spec, features, log_error, config.fit_config())
    return DamageModel(policy=policy, log_floor=-30.0)


def _fitted_ids(uri: str, chosen: Tensor) -> Allowed:
    ids = read_trajectories(uri)["trajectory_id"].to_numpy()
    return Allowed(uri=uri, trajectory_ids=frozenset(ids[chosen.numpy()]))


def _local_labels(allowed: Allowed, spec: PolicySpec) -> tuple[Tensor, Tensor]:
    columns = ["trajectory_id", "site", "local_rel_error", *spec.features]
    features, errors = [], []
    for batch in stream_gates(allowed.uri, columns):
        error = batch["local_rel_error"].to_numpy(zero_copy_only=False)
        wanted = np.isfinite(error) & np.isin(batch["site"].to_pylist(), spec.sites)
        wanted &= np.isin(batch["trajectory_id"].to_pylist(), list(allowed.trajectory_ids))
        block = np.stack([batch[name].to_numpy() for name in spec.features], axis=1)
        features.append(torch.from_numpy(block[wanted]))
        errors.append(torch.from_numpy(error[wanted]))
    return torch.cat(features), torch.cat(errors).square().clamp_min(1e-12).log()


def _with_spec(policy: ReusePolicy, **changes: Any) -> ReusePolicy:
    changed = ReusePolicy(replace(policy.spec, **changes))
    changed.load_state_dict(policy.state_dict())
    return changed.eval().requires_grad_(False)


def save_trained(trained: Trained, folder: Path, lineage: dict[str, str]) -> ReusePolicy:
    """Write the policy folder with the runs that led to it; returns the policy as saved."""
    policy = _with_spec(trained.policy, lineage=lineage)
    save_policy(policy, folder)
    return policy
