"""Schedules of whole runs: some steps compute every gate, and all other steps reuse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from dqar.records import MAX_ORDER

ReuseSetting: TypeAlias = tuple[int, float]
"""Forecast order of a run, and gain of its error feedback."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSchedule:
    """The steps of a run that compute every gate; all other steps reuse at one forecast order.

    Example: ``StepSchedule(computed=(0, 2, 5), forecast_order=1)``.
    """

    computed: tuple[int, ...]
    """Indices of the steps that compute, in ascending order, the first of them 0."""
    forecast_order: int = 0
    """Forecast order of the steps that reuse; 0 shows cached values unchanged."""
    feedback: float = 0.0
    """Gain of the error feedback (:mod:`dqar.control.error_feedback`)."""

    def __post_init__(self) -> None:
        check_setting(self.forecast_order, self.feedback)

    def __len__(self) -> int:
        """Number of computed steps."""
        return len(self.computed)

    @property
    def setting(self) -> ReuseSetting:
        """Forecast order, and gain of the error feedback."""
        return self.forecast_order, self.feedback

    def mask(self, steps: int) -> Bool[Tensor, " t"]:
        """Mask of the steps of a run, true for each step that reuses."""
        reuse = torch.ones(steps, dtype=torch.bool)
        reuse[list(self.computed)] = False
        return reuse

    def with_feedback(self, gain: float) -> StepSchedule:
        """Return the schedule with another gain of the error feedback."""
        return replace(self, feedback=gain)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSchedule:
    """A schedule with the predicted or measured error of its final latent."""

    schedule: StepSchedule
    error: float
    """Relative L2 distance of the final latent to the reference sample's, mean over samples."""


def check_computed(computed: tuple[int, ...], steps: int) -> None:
    """Check the computed steps of a run of ``steps`` steps.

    Raises:
        ValueError: if the indices do not start at 0, do not ascend strictly, or exceed the run.
    """
    is_growing = computed == tuple(sorted(set(computed)))
    if not computed or computed[0] != 0 or not is_growing or computed[-1] >= steps:
        raise ValueError(
            f"A plan's computed steps must be growing steps from 0 to below {steps}. Got "
            f"{computed!r:.80}. "
            "Train the policy again."
        )


def check_setting(order: int, gain: float) -> None:
    """Check a forecast order and a gain of the error feedback.

    Raises:
        ValueError: if the order or the gain is out of range, or NaN.
    """
    # Written with "not" so that NaN is refused.
    if not 0 <= order <= MAX_ORDER or not 0.0 <= gain <= 1.0:
        raise ValueError(
            f"forecast_order must be 0 to {MAX_ORDER}, and feedback in [0, 1]. Got order {order} "
            f"and gain {gain}. Train the policy again."
        )
