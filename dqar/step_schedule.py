"""A schedule of a whole run: the steps that compute every gate, where all other steps reuse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from dqar.records import MAX_ORDER

ReuseSetting: TypeAlias = tuple[int, float]
"""Order of the forecasts that a run shows, and gain of its error feedback."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSchedule:
    """Steps that compute every gate; all others show forecasts of one order.

    Example: ``StepSchedule(computed=(0, 2, 5), forecast_order=1)``.
    """

    computed: tuple[int, ...]
    """The steps that compute, growing, from step 0 on."""
    forecast_order: int = 0
    """Order of the forecasts that the other steps show; 0 shows cached values."""
    feedback: float = 0.0
    """Gain of the error feedback (:mod:`dqar.control.error_feedback`)."""

    def __post_init__(self) -> None:
        check_setting(self.forecast_order, self.feedback)

    def __len__(self) -> int:
        """Number of computed steps."""
        return len(self.computed)

    @property
    def setting(self) -> ReuseSetting:
        """Order of forecasts and gain of the error feedback."""
        return self.forecast_order, self.feedback

    def mask(self, steps: int) -> Bool[Tensor, " t"]:
        """Steps of a run that reuse, True for each."""
        reuse = torch.ones(steps, dtype=torch.bool)
        reuse[list(self.computed)] = False
        return reuse

    def with_feedback(self, gain: float) -> StepSchedule:
        """The same steps with another gain of the error feedback."""
        return replace(self, feedback=gain)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSchedule:
    """A schedule and the error that it was predicted, or measured, to end at."""

    schedule: StepSchedule
    error: float
    """Relative L2 distance of the final latent to the reference sample's, mean over samples."""


def check_computed(computed: tuple[int, ...], steps: int) -> None:
    """Check the computed steps of a run: step 0 computes, and no step twice.

    Raises:
        ValueError: if they are not growing steps of a run of ``steps`` steps.
    """
    is_growing = computed == tuple(sorted(set(computed)))
    if not computed or computed[0] != 0 or not is_growing or computed[-1] >= steps:
        raise ValueError(
            f"A plan must be growing steps from 0 to below {steps}. Got {computed!r:.80}. "
            "Train the policy again."
        )


def check_setting(order: int, gain: float) -> None:
    """Check an order of forecasts and a gain of the error feedback.

    Raises:
        ValueError: if one of them is out of range, or not a number.
    """
    # Written so that NaN is refused.
    if not 0 <= order <= MAX_ORDER or not 0.0 <= gain <= 1.0:
        raise ValueError(
            f"forecast_order must be 0 to {MAX_ORDER}, and feedback in [0, 1]. Got {order} and "
            f"{gain}. Train the policy again."
        )
