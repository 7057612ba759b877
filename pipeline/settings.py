"""What reuse shows in a run: the order of its forecasts, and how its errors are made up for."""

from __future__ import annotations

from dataclasses import dataclass

from dqar.policy.spec import PolicySpec, Rival


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting for a whole run."""

    forecast_order: int = 0
    """What a reuse shows: the cached value, or its forecast of this order."""
    feedback: float = 0.0
    """Gain of the error feedback (:mod:`dqar.control.error_feedback`)."""

    @classmethod
    def of(cls, plans: PolicySpec | Rival) -> Setting:
        """The setting that a policy's plans, or a rival, are for."""
        return cls(forecast_order=plans.forecast_order, feedback=plans.feedback)
