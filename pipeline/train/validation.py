"""Validation of a damage model on held-out trajectories.

It measures the fit (R^2), discrimination (AUC), calibration (Brier score, reliability diagram) and
the permutation importance of the features.
"""

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
"""Bins of the reliability diagram."""
NUM_SHUFFLES = 5
"""Permutations over which the importance of a feature is averaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Measures of prediction on trajectories whose noise samples the fit did not use."""

    metrics: dict[str, float]
    """R^2 of log D^2 (``r2``); AUC and Brier score of the event "ends within the tolerance"
    (``auc``, ``brier``); standard deviation of the residuals; tolerance; trajectory counts."""
    importance: dict[str, float]
    """Permutation importance by feature: the loss of R^2 when the feature is shuffled."""
    reliability: list[tuple[float, float]]
    """Reliability diagram: mean predicted probability and measured share of each bin."""
    predicted: list[float]
    """Predicted log D^2 of each trajectory."""
    measured: list[float]
    """Measured log D^2 of each trajectory."""


def validate(
    model: DamageModel, fitted: ReusedGates, held_out: ReusedGates, *, seed: int
) -> Validation:
    """Compare predicted with measured errors of held-out trajectories.

    The tolerance is the median error of the fitted trajectories. The probability of ending within
    it assumes normal residuals of log D^2 with the standard deviation of the fitted trajectories.

    Args:
        model: damage model of the trial fit.
        fitted: trajectories that the fit used.
        held_out: trajectories of other noise samples.
        seed: random seed of the permutations.
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
    # The AUC is undefined if all trajectories are within tolerance, or none.
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
    """Plot predicted against measured errors, the reliability diagram and the importance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    fit, reliability, importance = figure.subplots(1, 3)
    fit.scatter(validation.measured, validation.predicted, s=12)
    ends = [min(validation.measured), max(validation.measured)]
    fit.plot(ends, ends, color="grey")
    fit.set(
        xlabel="measured log D^2 (D: relative L2 error)",
        ylabel="predicted log D^2",
        title="held-out trajectories",
    )
    reliability.plot([0, 1], [0, 1], color="grey")
    reliability.plot(*zip(*validation.reliability, strict=True), marker="o")
    reliability.set(
        xlabel="predicted probability of ending within tolerance",
        ylabel="measured share within tolerance",
        title="reliability diagram",
    )
    names = sorted(validation.importance, key=lambda name: validation.importance[name])
    importance.barh(names, [validation.importance[name] for name in names])
    importance.set(xlabel="loss of R^2 when the feature is shuffled", title="feature importance")
    figure.savefig(path, dpi=120)
