"""Training: traces in, a policy folder out, with the figures that say how far to trust it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import save_policy
from dqar.policy.spec import CACHE_BITS, PolicySpec
from dqar.records import ACTIONS
from dqar.step_schedule import ReuseSetting
from pipeline.errors import InputError
from pipeline.exploration.collect_plan import canonical_json
from pipeline.traces.dataset import TraceUris
from pipeline.traces.multi_dataset import MultiTraceDataset, open_multi
from pipeline.train.alternative_schedules import with_rivals
from pipeline.train.config import TrainConfig, settings_of, sites_of
from pipeline.train.damage_model import CHUNK_ROWS
from pipeline.train.fits import Fitter
from pipeline.train.gate_table import Gates, ReusedGates
from pipeline.train.planning import max_stretch_of, planned, snrs_of
from pipeline.train.propensity_test import PropensityTest, check_propensities
from pipeline.train.training_data import matching_trajectories, max_gap_of, store_reused_gates
from pipeline.train.validation import Validation, validate

HELD_OUT_SHARE = 5
"""Every fifth noise is held out; trajectories of one noise stay together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A policy and what held-out trajectories say of it."""

    policy: ReusePolicy
    held_out: Validation
    balance: PropensityTest
    """Whether the traces' propensities are right."""
    traces: MultiTraceDataset


def train(
    config: TrainConfig,
    uri: TraceUris,
    report: Callable[[int, float], None] = lambda step, loss: None,
    checkpoints: Path | None = None,
) -> Trained:
    """Fit on four fifths of the noises until the rest is predicted worse, judge on the rest, then
    fit on all of them for as many steps.

    Args:
        uri: a dataset, or several of one model that are fitted together.
        checkpoints: folder from which a fit that was cut off is taken up; None for nowhere.

    Raises:
        InputError: if the traces cannot be read, differ in what they are of, or do not hold the
        sites
            asked for.
    """
    traces = open_multi(uri)
    sites, settings = sites_of(config, traces), settings_of(config, traces)
    with tempfile.TemporaryDirectory(prefix="dqar-") as scratch:
        gates = store_reused_gates(uri, config.names, sites, Path(scratch))
        first, everything = settings[0], torch.ones_like(gates.noise) > 0
        usable = everything if config.plans else matching_trajectories(uri, first)
        fitter = Fitter(
            uri=uri,
            label=config.label,
            gates=gates,
            config=config.fit_config(),
            checkpoints=checkpoints,
            claim=_claim(config, traces),
        )
        everyone = fitter.look(torch.ones_like(usable))
        spec = _spec(config, traces, sites, everyone, uri, first)
        held_out, fit = _fitted(fitter, spec, usable, report)
    policy = _at_its_median(fit, everyone, held_out)
    if config.plans:
        snrs, stretch = snrs_of(uri), max_stretch_of(everyone, config.names)
        policy = planned(policy, snrs, settings, stretch)
        if config.label == "final":
            policy = with_rivals(policy, fitter.local(spec, usable), snrs, settings, stretch)
    return Trained(policy=policy, held_out=held_out, balance=check_propensities(uri), traces=traces)


def _fitted(
    fitter: Fitter, spec: PolicySpec, usable: Tensor, report: Callable[[int, float], None]
) -> tuple[Validation, ReusePolicy]:
    is_held_out = _held_out(fitter.gates, usable)
    fitted, judged = usable & ~is_held_out, usable & is_held_out
    trial = fitter.trial(spec, fitted, judged)
    held_out = validate(
        trial.model, fitter.look(fitted), fitter.look(judged), seed=fitter.config.seed
    )
    steps = trial.descended.kept_step
    held_out.metrics["fit_steps"] = float(steps)
    _tell_how_many(held_out, int(usable.sum()))
    return held_out, fitter.final(spec, usable, steps, report).model.policy


def _tell_how_many(held_out: Validation, usable: int) -> None:
    metrics = held_out.metrics
    seen = int(metrics["trajectories_fitted"] + metrics["trajectories_held_out"])
    if seen < usable:
        print(
            f"train: fitted on {usable} trajectories in batches; held-out figures and scales are "
            f"of {seen} of them, drawn at random",
            flush=True,
        )


def _claim(config: TrainConfig, traces: MultiTraceDataset) -> dict[str, str]:
    """What a checkpoint must be of to be taken up."""
    everything = asdict(config) | {"fit": asdict(config.fit_config()), "torch": torch.__version__}
    digest = hashlib.sha256(canonical_json(everything).encode()).hexdigest()
    return {"config": digest, "traces": traces.digest}


def _held_out(gates: Gates, usable: Tensor) -> Tensor:
    """Every fifth noise, by trajectory."""
    is_held_out = gates.noise % HELD_OUT_SHARE == 0
    if not (usable & is_held_out).any() or not (usable & ~is_held_out).any():
        raise InputError(
            f"--traces must hold at least two noises. Got {int(gates.noise.max()) + 1}, with "
            f"{int(usable.sum())} trajectories to learn from. Collect more trajectories."
        )
    return is_held_out


def _at_its_median(policy: ReusePolicy, gates: ReusedGates, held_out: Validation) -> ReusePolicy:
    scores = [policy(rows) for rows in gates.features.split(CHUNK_ROWS)]
    threshold = float(torch.cat(scores).median())
    # JSON knows no NaN, which the AUC is where all held-out trajectories ended alike.
    metrics = {
        name: round(value, 6) for name, value in held_out.metrics.items() if np.isfinite(value)
    }
    return policy.with_spec(log_threshold=threshold, metrics=metrics)


def _spec(
    config: TrainConfig,
    traces: MultiTraceDataset,
    sites: tuple[str, ...],
    gates: ReusedGates,
    uri: TraceUris,
    setting: ReuseSetting,
) -> PolicySpec:
    plan, (order, gain) = traces.plan, setting
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
        feedback=gain,
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


def save_trained(trained: Trained, folder: Path, lineage: dict[str, str]) -> ReusePolicy:
    """Write the policy folder with the runs that led to it; returns the policy as saved."""
    policy = trained.policy.with_spec(lineage=lineage)
    save_policy(policy, folder)
    return policy
