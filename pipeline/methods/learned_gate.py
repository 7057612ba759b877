"""A policy that decides step by step, by a threshold on its score, and its majority schedule.

A threshold may differ between the samples of a batch. One calibration task therefore runs each
sample at another threshold, which maps thresholds to reuse ratios and errors.
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
from pipeline.methods.base import (
    CalibrationBudget,
    CalibrationCost,
    Comparison,
    Method,
    OperatingPoint,
    Session,
    SweepGrid,
    budget_label,
)
from pipeline.methods.calibration import CalibrationResult, CalibrationTask

PROBES = 64
"""Thresholds of the first calibration task, one for each sample."""


class LearnedGate(Method):
    """A policy that decides step by step, at thresholds for the grid's reuse ratios.

    An error budget adds one more threshold.
    """

    name = "learned"
    role = "subject"

    def __init__(self, row_name: str, policy: ReusePolicy) -> None:
        self.row_name, self.policy = row_name, policy

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        self._probed = probe(session, self.row_name, self.policy)
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        comparison, policy, steps = session.comparison, self.policy, session.steps
        thresholds = thresholds_of(comparison.grid, policy, self._probed)
        points = learned_points(self.row_name, policy, steps, thresholds)
        if (error_budget := comparison.error_budget) is not None:
            points.append(budget_point(self.row_name, policy, steps, error_budget, self._probed))
        return points


class MajoritySchedule(Method):
    """Static schedule of a policy that decides step by step: the majority decision over samples.

    Policies that plan whole runs have a static schedule already and are left out.
    """

    name = "static"
    is_for_paper = True

    def __init__(self, row_name: str, policy: ReusePolicy) -> None:
        self.row_name, self.policy = row_name, policy

    @classmethod
    def build(cls, comparison: Comparison) -> list[MajoritySchedule]:
        policies = comparison.policies.items()
        return [cls(name, policy) for name, policy in policies if not policy.spec.plans]

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        probed = probe(session, self.row_name, self.policy)
        thresholds = thresholds_of(session.comparison.grid, self.policy, probed)
        self._shares = session.calibrate([_share_task(self.policy, one) for one in thresholds])
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        spec = self.policy.spec
        return [
            static_point(
                *(self.row_name, session.steps, result.share, float(label)),
                *(spec.forecast_order, spec.feedback),
            )
            for label, result in sorted(self._shares.items())
        ]


def probe(session: Session, name: str, policy: ReusePolicy) -> CalibrationResult:
    """Measure reuse ratios and errors of the policy at thresholds around its default threshold."""
    return session.calibrate([first_task(name, policy)])[name]


def thresholds_of(grid: SweepGrid, policy: ReusePolicy, probed: CalibrationResult) -> list[float]:
    """Return the log thresholds at which a policy reaches the reuse ratios of a grid."""
    return thresholds_for(grid.reuse_ratios, probe_thresholds(policy), probed.reuse_ratio)


def probe_thresholds(policy: ReusePolicy) -> Float[Tensor, " b"]:
    """Return log thresholds within 9 of the policy's default: from no reuse to nearly all."""
    return policy.spec.log_threshold + torch.linspace(-9.0, 9.0, PROBES)


def first_task(name: str, policy: ReusePolicy) -> CalibrationTask:
    """Return the calibration task that maps thresholds to reuse ratios and errors."""
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
    """Return the thresholds that reach the wanted reuse ratios (or errors).

    Isotonic regression makes the measured values monotone in the threshold; linear interpolation
    inverts them.

    Args:
        wanted: reuse ratios or errors to reach.
        probed: thresholds that were measured.
        achieved: reuse ratio or error measured at each of them.
    """
    # NaN and infinity come from samples that diverged.
    probed, achieved = probed[achieved.isfinite()], achieved[achieved.isfinite()]
    smooth = IsotonicRegression(out_of_bounds="clip").fit_transform(
        probed.double().numpy(), achieved.double().numpy()
    )
    # np.interp needs strictly increasing abscissae; a slope of at most 1e-6 separates equal values.
    slope = np.linspace(0.0, 1e-6, len(smooth))
    return [float(np.interp(value, smooth + slope, probed.numpy())) for value in wanted]


def learned_points(
    name: str, policy: ReusePolicy, steps: int, thresholds: list[float]
) -> list[OperatingPoint]:
    """Return an operating point of the policy for each threshold."""
    return [
        _learned_point(name, policy, steps, f"log_threshold={threshold:.3f}", threshold)
        for threshold in thresholds
    ]


def budget_point(
    name: str, policy: ReusePolicy, steps: int, error_budget: float, probed: CalibrationResult
) -> OperatingPoint:
    """Return the operating point whose smoothed calibration error equals the error budget.

    Args:
        probed: result of :func:`first_task`.
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
    """Return the majority schedule of a policy: one plan for all samples, known before sampling.

    Args:
        share: share of the samples that reused, by step and gate.
        forecast_order: forecast order of the policy.
        feedback: gain of the policy's error feedback.
    """
    return OperatingPoint(
        method=name.replace("learned", "static", 1),
        operating_point=f"majority@{threshold:.3f}",
        steps=steps,
        gate=MaskGate(majority(share)[:, :, None]),
        forecast_order=forecast_order,
        feedback=feedback,
    )


def _share_task(policy: ReusePolicy, threshold: float) -> CalibrationTask:
    """Return the task that measures the policy's decisions at one threshold, on 32 samples."""
    return CalibrationTask(
        name=f"{threshold:.6f}",
        gate=Learned(policy, log_threshold=threshold),
        num_samples=PROBES // 2,
        forecast_order=policy.spec.forecast_order,
        feedback=policy.spec.feedback,
    )
