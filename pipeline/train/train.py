"""Training of a policy from traces, with its validation on held-out noise samples."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import save_policy
from dqar.policy.spec import CACHE_BITS, EXPLORATION, PolicySpec
from dqar.records import ACTIONS
from dqar.step_schedule import ReuseSetting
from pipeline.exploration.collect_plan import canonical_json
from pipeline.storage.unfinished_folder import unfinished
from pipeline.traces.dataset import Traces
from pipeline.train.alternative_schedules import with_rivals
from pipeline.train.config import TrainConfig, settings_of, sites_of
from pipeline.train.damage_model import CHUNK_ROWS
from pipeline.train.fits import Fitter, Report, no_report
from pipeline.train.gate_table import ReusedGates
from pipeline.train.planning import max_stretch_of, planned
from pipeline.train.propensity_test import PropensityTest
from pipeline.train.training_data import (
    Split,
    TrainingData,
    read_training_data,
    split_trajectories,
)
from pipeline.train.validation import Validation, validate


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """Trained policy, with its validation."""

    policy: ReusePolicy
    """Policy, fitted on all usable trajectories."""
    validation: Validation
    """Prediction of held-out trajectories by the trial fit, which did not see them."""
    propensity_test: PropensityTest
    """Test of the propensities in the traces."""
    traces: Traces
    """Traces that the policy was trained on."""


def train(
    config: TrainConfig,
    traces: Traces,
    report: Report = no_report,
    checkpoints: Path | None = None,
) -> Trained:
    """Train a policy: a trial fit with early stopping, validation, then a fit on all data.

    The trial fit uses four fifths of the noise samples and stops early on the last fifth, which
    also validates it. The final fit uses all noise samples and as many optimizer steps as the trial
    fit kept. Gates are read in one pass (:func:`pipeline.train.training_data.read_training_data`).

    Args:
        config: features, label, sites and settings of the policy.
        traces: a dataset, or several of one model that are fitted together.
        report: called with the optimizer step and the loss of the final fit.
        checkpoints: folder of checkpoints, from which an interrupted training resumes; None for no
            checkpoints.

    Raises:
        InputError: if a shard cannot be read, or if the traces do not hold the requested sites, two
            noise samples or a reuse.
    """
    sites, settings = sites_of(config, traces), settings_of(config, traces)
    config = config.for_sites(sites)
    split = split_trajectories(traces, config, settings[0])
    with tempfile.TemporaryDirectory(prefix="dqar-") as scratch:
        data = read_training_data(traces, config, sites, split, Path(scratch))
        fitter = _fitter(config, traces, split, data, checkpoints)
        everyone = fitter.load(torch.ones_like(split.usable))
        spec = _spec(config, traces, sites, everyone, data.max_gap, settings[0])
        validation, fit = _fitted(fitter, spec, report)
        policy = _at_its_median(fit, everyone, validation)
        if config.plans:
            policy = _with_plans(policy, fitter, spec, data.snrs, settings, everyone)
        explored = {EXPLORATION: float(exploration_evaluations(traces, len(data.snrs)))}
        policy = policy.with_spec(metrics=policy.spec.metrics | explored)
    return Trained(
        policy=policy,
        validation=validation,
        propensity_test=data.propensity_test,
        traces=traces,
    )


def exploration_evaluations(traces: Traces, steps: int) -> int:
    """Return the guided model evaluations of a collection: trajectories and reference samples."""
    noise = traces.noise_index
    return steps * (len(noise) + len(np.unique(noise)))


def _fitter(
    config: TrainConfig, traces: Traces, split: Split, data: TrainingData, checkpoints: Path | None
) -> Fitter:
    return Fitter(
        label=config.label,
        gates=data.gates,
        split=split,
        local_errors=data.local_errors,
        config=config.fit_config(),
        checkpoints=checkpoints,
        claim=_claim(config, traces),
    )


def _claim(config: TrainConfig, traces: Traces) -> dict[str, str]:
    """Return the digests that a checkpoint must have for a fit to resume from it."""
    everything = asdict(config) | {"fit": asdict(config.fit_config()), "torch": torch.__version__}
    digest = hashlib.sha256(canonical_json(everything).encode()).hexdigest()
    return {"config": digest, "traces": traces.digest}


def _fitted(fitter: Fitter, spec: PolicySpec, report: Report) -> tuple[Validation, ReusePolicy]:
    split = fitter.split
    first = fitter.fit_with_validation(spec)
    fitted, held_out = fitter.load(split.fitted), fitter.load(split.held_out)
    validation = validate(first.model, fitted, held_out, seed=fitter.config.seed)
    steps = first.state.kept_step
    validation.metrics["fit_steps"] = float(steps)
    _print_if_sampled(validation, int(split.usable.sum()))
    return validation, fitter.refit(spec, steps, report).model.policy


def _print_if_sampled(validation: Validation, usable: int) -> None:
    metrics = validation.metrics
    seen = int(metrics["trajectories_fitted"] + metrics["trajectories_held_out"])
    if seen < usable:
        print(
            f"train: the policy is fitted on all {usable} trajectories, in batches. Feature scales "
            f"and held-out figures come from {seen} of them, drawn at random, to bound memory",
            flush=True,
        )


def _at_its_median(policy: ReusePolicy, gates: ReusedGates, validation: Validation) -> ReusePolicy:
    """Return the policy with its metrics, and the median score as its default threshold."""
    scores = [policy(rows) for rows in gates.features.split(CHUNK_ROWS)]
    threshold = float(torch.cat(scores).median())
    # JSON has no NaN, which the AUC is if all held-out trajectories are within tolerance, or none.
    metrics = {
        name: round(value, 6) for name, value in validation.metrics.items() if np.isfinite(value)
    }
    return policy.with_spec(log_threshold=threshold, metrics=metrics)


def _with_plans(
    policy: ReusePolicy,
    fitter: Fitter,
    spec: PolicySpec,
    snrs: list[float],
    settings: tuple[ReuseSetting, ...],
    everyone: ReusedGates,
) -> ReusePolicy:
    stretch = max_stretch_of(everyone, spec.features)
    policy = planned(policy, snrs, settings, stretch)
    if fitter.label == "local":
        return policy
    return with_rivals(policy, fitter.fit_local_errors(spec), snrs, settings, stretch)


def _spec(
    config: TrainConfig,
    traces: Traces,
    sites: tuple[str, ...],
    gates: ReusedGates,
    max_gap: int,
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
        max_gap=max_gap,
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
    """Write the policy folder and return the policy as saved.

    Args:
        trained: trained policy.
        folder: policy folder.
        lineage: MLflow run ids of the runs that led to the policy, by stage.
    """
    policy = trained.policy.with_spec(lineage=lineage)
    with unfinished(folder, "policy.json"):
        save_policy(policy, folder)
    return policy
