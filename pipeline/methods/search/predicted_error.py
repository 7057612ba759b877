"""Log errors that a policy's damage model predicts for any schedule."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dqar.policy.network import ReusePolicy
from dqar.policy.planner import step_damage
from dqar.step_schedule import ReuseSetting, StepSchedule

GAIN_STEP = 0.25
"""Gains are rounded to multiples of it, as every gain takes a table of its own."""
LEAST_DAMAGE = 1e-18
"""Damage below it counts as equal to it, so that the logarithm is finite."""


class PredictedError:
    """Predicted log error of the final latent, by schedule.

    Args:
        policy: policy that plans whole runs.
        snrs: signal-to-noise ratio of each sampling step.
    """

    def __init__(self, policy: ReusePolicy, snrs: list[float]) -> None:
        self._policy, self._snrs = policy, snrs
        self._tables: dict[ReuseSetting, Float[Tensor, "t k s c"]] = {}
        self._known: dict[StepSchedule, float] = {}

    def __call__(self, schedule: StepSchedule) -> float:
        """Return half of the log of the summed damage; gaps beyond the largest count as it."""
        if schedule not in self._known:
            self._known[schedule] = self._predict(schedule)
        return self._known[schedule]

    def _predict(self, schedule: StepSchedule) -> float:
        table = self._table(schedule)
        last_gap, last_span = table.shape[1] - 1, table.shape[2] - 1
        total, computed = 0.0, schedule.computed
        for index, step in enumerate(computed):
            until = computed[index + 1] if index + 1 < len(computed) else len(self._snrs)
            span = step - computed[index - 1] if index >= 1 else 0
            before = computed[index - 1] - computed[index - 2] if index >= 2 else 0
            stale = range(step + 1, until)
            gaps = [min(one - step - 1, last_gap) for one in stale]
            rows = table[list(stale), gaps, min(span, last_span), min(before, last_span)]
            total += float(rows.sum())
        return 0.5 * math.log(max(total, LEAST_DAMAGE))

    def _table(self, schedule: StepSchedule) -> Float[Tensor, "t k s c"]:
        order, gain = schedule.forecast_order, round(schedule.feedback / GAIN_STEP) * GAIN_STEP
        if (order, gain) not in self._tables:
            gap = min(self._policy.spec.max_gap, len(self._snrs) - 1)
            damage = step_damage(self._policy, self._snrs, order, gap, gain)
            self._tables[order, gain] = torch.as_tensor(damage)
        return self._tables[order, gain]
