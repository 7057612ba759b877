"""A policy with plans, and made-up results of the calibration tasks of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from dqar.gates.rules import MaskGate
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from pipeline.methods.base import COARSE, CalibrationBudget, CalibrationCost, Comparison
from pipeline.methods.calibration import CalibrationResult, CalibrationTask

STEPS = 20
PLANS = tuple((0, *range(STEPS - number + 1, STEPS)) for number in range(2, STEPS + 1))
"""Of each number of steps from 2 on, late ones: none is even but the last."""


def planned_policy(**changes):
    values = {
        "steps": STEPS,
        "plans": PLANS,
        "plan_errors": tuple(0.1 / len(plan) for plan in PLANS),
        "forecast_order": 2,
    }
    return ReusePolicy(PolicySpec(features=("log_gap",), **(values | changes)))


def answer_by(error_of, asked=None, by_order=None, by_gain=False):
    """An ``ask`` whose errors follow from a sample's computed steps, its noise, its order, and
    perhaps its gain."""

    by_order = by_order or {}

    def error(probe, column):
        assert isinstance(probe.gate, MaskGate)
        reuse = probe.gate.reuse[:, 0, column]
        computed = tuple((~reuse).nonzero()[:, 0].tolist())
        order = probe.forecast_order[column]
        gain = (probe.feedback[column],) if by_gain else ()
        return error_of(computed, probe.noise_ids[column], *gain) + by_order.get(order, 0.0)

    def answer(probe: CalibrationTask) -> CalibrationResult:
        errors = [error(probe, column) for column in range(probe.num_samples)]
        return CalibrationResult(
            reuse_ratio=torch.zeros(probe.num_samples),
            share=torch.zeros(STEPS, 1),
            error=torch.tensor(errors),
            entropies=torch.ones(1),
            snrs=[1.0] * STEPS,
        )

    def ask(probes):
        if asked is not None:
            asked.extend(probes)
        # In another order than they were asked, as a fleet answers.
        return {probe.name: answer(probe) for probe in reversed(probes)}

    return ask


@dataclass
class MadeUpSession:
    """A method's session whose tasks are answered by a function, and whose cost is counted."""

    steps: int
    comparison: Comparison
    answer: Callable[[list[Any]], dict[str, Any]] = lambda tasks: {}
    asked: list[Any] = field(default_factory=list)

    @property
    def cost(self):
        return CalibrationCost(trajectories=sum(task.trajectories for task in self.asked))

    def calibrate(self, tasks):
        self.asked.extend(tasks)
        return self.answer(list(tasks))


def comparison(error_budget=None, methods=("learned",), evaluations=None):
    return Comparison(
        methods=methods,
        policies={"learned": planned_policy()},
        grid=COARSE,
        error_budget=error_budget,
        calibration_budget=CalibrationBudget(evaluations=evaluations),
    )
