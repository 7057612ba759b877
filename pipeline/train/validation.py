"""Validation on held-out trajectories: fit, discrimination, calibration, feature importance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, r2_score, roc_auc_score

from pipeline.train.damage_model import DamageModel
from pipeline.train.gate_table import ReusedGates

NUM_BINS = 5
NUM_SHUFFLES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Figures on trajectories whose noise samples the fit never saw."""

    metrics: dict[str, float]
    """R^2 of log D^2 (``r2``); AUC and Brier score of "ends within tolerance"; sizes."""
    importance: dict[str, float]
    """Loss of R^2 when a feature is shuffled among gates, by feature."""
    reliability: list[tuple[float, float]]
    """Pairs of predicted probability and measured share, by bin."""
    predicted: list[float]
    """Predicted log D^2."""
    measured: list[float]
    """Measured log D^2."""


def validate(
    model: DamageModel, fitted: ReusedGates, held_out: ReusedGates, *, seed: int
) -> Validation:
    """Compare predicted with measured errors of held-out trajectories.

    The tolerance is the median error of the fitted trajectories; the probability to end within
    it comes from the normal spread of the fit's residuals.
    """
    predicted = model.predict(held_out).numpy()
    measured = held_out.log_error.numpy()
    residual = (fitted.log_error - model.predict(fitted)).std().item()
    log_tolerance = fitted.log_error.median().item()
    probability = norm.cdf((log_tolerance - predicted) / max(residual, 1e-6))
    is_within = measured <= log_tolerance
    r2 = float(r2_score(measured, predicted))
    metrics = {
        "r2": r2,
        "auc": _auc(is_within, probability),
        "brier": float(brier_score_loss(is_within, probability)),
        "residual_std": residual,
        "tolerance": float(np.exp(0.5 * log_tolerance)),
        "trajectories_fitted": float(len(fitted.squared_error)),
        "trajectories_held_out": float(len(measured)),
    }
    share, mean = calibration_curve(is_within, probability, n_bins=NUM_BINS)
    return Validation(
        metrics=metrics,
        importance=_importance(model, held_out, r2, seed),
        reliability=list(zip(mean.tolist(), share.tolist(), strict=True)),
        predicted=predicted.tolist(),
        measured=measured.tolist(),
    )


def _auc(is_within: np.ndarray, probability: np.ndarray) -> float:
    # With one class there is nothing to rank.
    if is_within.all() or not is_within.any():
        return float("nan")
    return float(roc_auc_score(is_within, probability))


def _importance(model: DamageModel, gates: ReusedGates, r2: float, seed: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    loss = {}
    for index, name in enumerate(model.policy.spec.features):
        scores = [_shuffled_r2(model, gates, index, generator) for _ in range(NUM_SHUFFLES)]
        loss[name] = r2 - float(np.mean(scores))
    return loss


def _shuffled_r2(
    model: DamageModel, gates: ReusedGates, index: int, generator: torch.Generator
) -> float:
    features = gates.features.clone()
    order = torch.randperm(len(features), generator=generator)
    features[:, index] = features[order, index]
    shuffled = model.predict(gates.with_features(features))
    return float(r2_score(gates.log_error.numpy(), shuffled.numpy()))


def plot_validation(validation: Validation, path: Path) -> None:
    """Plot predicted against measured errors, the reliability and the permutation importance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    fit, reliability, importance = figure.subplots(1, 3)
    fit.scatter(validation.measured, validation.predicted, s=12)
    ends = [min(validation.measured), max(validation.measured)]
    fit.plot(ends, ends, color="grey")
    fit.set(xlabel="measured log D^2", ylabel="predicted", title="held-out trajectories")
    reliability.plot([0, 1], [0, 1], color="grey")
    reliability.plot(*zip(*validation.reliability, strict=True), marker="o")
    reliability.set(
        xlabel="predicted probability", ylabel="share within tolerance", title="reliability"
    )
    names = sorted(validation.importance, key=lambda name: validation.importance[name])
    importance.barh(names, [validation.importance[name] for name in names])
    importance.set(xlabel="loss of R^2", title="permutation importance")
    figure.savefig(path, dpi=120)
