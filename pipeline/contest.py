"""What meets in an evaluation: methods and policies, on which grid, within which error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dqar.policy.network import ReusePolicy
from pipeline.methods.base import Grid
from pipeline.methods.calibration import Probe, Probed

Ask = Callable[[list[Probe]], dict[str, Probed]]
"""Answers probes on calibration noise, by their names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """Which methods meet, with which policies, on which grid."""

    methods: tuple[str, ...]
    policies: dict[str, ReusePolicy]
    """Method name (``learned`` or ``learned-NAME``) to policy."""
    grid: Grid
    error_budget: float | None = None
    """Relative L2 error within which each policy is to save the most: one more point."""

    def __post_init__(self) -> None:
        budget = self.error_budget
        if budget is None:
            return
        if not (math.isfinite(budget) and budget > 0):
            raise ValueError(f"error_budget must be a positive number. Got {budget}. Pass 0.01.")
        if not self.policies or "learned" not in self.methods:
            raise ValueError(
                f"error_budget must come with a policy and the method learned. Got {self.methods} "
                f"and {len(self.policies)} policies. Pass --policy, or leave --error-budget out."
            )


def budget_label(error_budget: float) -> str:
    """The operating point of an error budget."""
    return f"budget={error_budget:g}"
