"""Operating points of a policy that decides step by step, by thresholds on its score.

A threshold may differ from sample to sample, so one probe on calibration noise maps
thresholds to reuse ratios and errors. Calibration noise is never evaluated on.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from dqar.gates.rules import Learned, MaskGate
from dqar.policy.network import ReusePolicy
from dqar.schedules.static_plan import majority
from pipeline.methods.base import Calibrate, Comparison, OperatingPoint, budget_label
from pipeline.methods.calibration import CalibrationResult, CalibrationTask

PROBES = 64
"""Thresholds that are probed, one a sample."""


def probe_thresholds(policy: ReusePolicy) -> Float[Tensor, " b"]:
    """Log thresholds around the policy's own, wide enough for reuse from none to nearly all."""
    return policy.spec.log_threshold + torch.linspace(-9.0, 9.0, PROBES)


def first_probe(name: str, policy: ReusePolicy) -> CalibrationTask:
    """One that maps thresholds to what they reach."""
    gate = Learned(policy, log_threshold=probe_thresholds(policy))
    return CalibrationTask(
        name=name,
        gate=gate,
        num_samples=PROBES,
        forecast_order=policy.spec.forecast_order,
        feedback=policy.spec.feedback,
    )


def thresholds_for(
    wanted: tuple[float, ...], probed: Float[Tensor, " b"], achieved: Float[Tensor, " b"]
) -> list[float]:
    """Thresholds that reach the ratios (or the errors) wanted, from one probe smoothed to
    be monotone."""
    # A threshold whose sample diverged reaches nothing.
    probed, achieved = probed[achieved.isfinite()], achieved[achieved.isfinite()]
    smooth = IsotonicRegression(out_of_bounds="clip").fit_transform(
        probed.double().numpy(), achieved.double().numpy()
    )
    # np.interp needs strictly growing abscissae; a hair of slope breaks ties.
    slope = np.linspace(0.0, 1e-6, len(smooth))
    return [float(np.interp(value, smooth + slope, probed.numpy())) for value in wanted]


def learned_points(
    name: str, policy: ReusePolicy, steps: int, thresholds: list[float]
) -> list[OperatingPoint]:
    """The policy at some thresholds."""
    return [
        _learned_point(name, policy, steps, f"log_threshold={threshold:.3f}", threshold)
        for threshold in thresholds
    ]


def budget_point(
    name: str, policy: ReusePolicy, steps: int, error_budget: float, probed: CalibrationResult
) -> OperatingPoint:
    """The policy at the threshold whose smoothed error on calibration noise is the budget.

    Args:
        probed: what :func:`first_probe` saw.
    """
    (threshold,) = thresholds_for((error_budget,), probe_thresholds(policy), probed.error)
    return _learned_point(name, policy, steps, budget_label(error_budget), threshold)


def _learned_point(
    name: str, policy: ReusePolicy, steps: int, label: str, threshold: float
) -> OperatingPoint:
    return OperatingPoint(
        method=name,
        operating_point=label,
        steps=steps,
        gate=Learned(policy, log_threshold=threshold),
        forecast_order=policy.spec.forecast_order,
        feedback=policy.spec.feedback,
    )


def static_point(
    name: str,
    steps: int,
    share: Float[Tensor, "t g"],
    threshold: float,
    forecast_order: int = 0,
    feedback: float = 0.0,
) -> OperatingPoint:
    """The learned policy's majority schedule: one plan for every sample, known before sampling.

    Args:
        forecast_order: the policy's, as ``feedback``.
    """
    return OperatingPoint(
        method=name.replace("learned", "static", 1),
        operating_point=f"majority@{threshold:.3f}",
        steps=steps,
        gate=MaskGate(majority(share)[:, :, None]),
        forecast_order=forecast_order,
        feedback=feedback,
    )


def greedy_points(
    name: str,
    policy: ReusePolicy,
    comparison: Comparison,
    steps: int,
    probed: CalibrationResult,
    ask: Calibrate,
) -> list[OperatingPoint]:
    """A policy that decides step by step, and its frozen majority, at the ratios of the grid.

    Args:
        probed: what :func:`first_probe` saw.
        ask: answers probes on calibration noise.
    """
    thresholds = thresholds_for(
        comparison.grid.reuse_ratios, probe_thresholds(policy), probed.reuse_ratio
    )
    points = []
    if "static" in comparison.methods:
        points += _static_points(name, policy, steps, thresholds, ask)
    if "learned" in comparison.methods:
        points += learned_points(name, policy, steps, thresholds)
        if comparison.error_budget is not None:
            points.append(budget_point(name, policy, steps, comparison.error_budget, probed))
    return points


def _static_points(
    name: str, policy: ReusePolicy, steps: int, thresholds: list[float], ask: Calibrate
) -> list[OperatingPoint]:
    probes = [
        CalibrationTask(
            name=f"{threshold:.6f}",
            gate=Learned(policy, log_threshold=threshold),
            num_samples=PROBES // 2,
            forecast_order=policy.spec.forecast_order,
            feedback=policy.spec.feedback,
        )
        for threshold in thresholds
    ]
    shown = (policy.spec.forecast_order, policy.spec.feedback)
    return [
        static_point(name, steps, answer.share, float(label), *shown)
        for label, answer in sorted(ask(probes).items())
    ]
