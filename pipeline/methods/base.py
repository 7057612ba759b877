"""The interface of the methods that an evaluation compares, and the settings that they share.

A new method is one file in this package and one line in :mod:`pipeline.methods.registry`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from dqar.gates.base import Gate
from dqar.policy.network import ReusePolicy
from dqar.step_schedule import StepSchedule
from pipeline.methods.calibration import CalibrationResult, CalibrationTask
from pipeline.methods.task import R_co, Task
from pipeline.models.model_info import ModelInfo

PAPER_WARMUP = 0.2
"""Share of the steps in which the DQAR paper reuses nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepGrid:
    """Settings at which each sweep is sampled; sweeps are compared by interpolation."""

    steps: tuple[float, ...] = (0.9, 0.8, 0.66, 0.6, 0.5, 0.4, 0.34, 0.25)
    """Shares of the steps that ``fewer-steps`` keeps."""
    periods: tuple[int, ...] = (2, 3, 4, 5, 6)
    """Periods of ``interval``."""
    layer_fractions: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Layer fractions of ``linear``."""
    entropy_quantiles: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    """Quantiles of the observed entropy that ``threshold`` takes for tau."""
    reuse_ratios: tuple[float, ...] = tuple(
        percent / 100 for percent in (20, 28, 32, 40, 48, 52, 60, 66, 72, 78, 82)
    )
    """Reuse ratios that calibrated sweeps aim at."""


FINE = SweepGrid()
COARSE = SweepGrid(
    steps=(0.8, 0.6, 0.5),
    periods=(2, 3, 4),
    layer_fractions=(0.5, 1.0),
    entropy_quantiles=(0.5, 1.0),
    reuse_ratios=(0.28, 0.38, 0.48, 0.58, 0.7),
)
GRIDS = {"fine": FINE, "coarse": COARSE}
ScheduleSource = Literal["policy", "alternative", "uniform"]
"""The policy's own schedule, an alternative that its training made, or as many steps spread
evenly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """One setting of a method: a gate, with the forecasts and the feedback of its reuse."""

    method: str
    operating_point: str
    """Name within the sweep of the method."""
    steps: int
    gate: Gate | None = None
    """None samples without reuse."""
    forecast_order: int = 0
    """Order of the forecast that a reuse shows; 0 for the cached value as it is."""
    feedback: float = 0.0
    """Gain of the error feedback."""
    schedule: StepSchedule | None = None
    """The schedule that was taken for a policy that plans."""
    schedule_source: ScheduleSource | None = None
    """The origin of that schedule."""
    sampler: Literal["dpm"] | None = None
    """DPM-Solver++ in place of the evaluation's sampler; reference samples keep that."""


Calibrate = Callable[[list[CalibrationTask]], dict[str, CalibrationResult]]
"""Runs calibration tasks of gates; results by the names of the tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBudget:
    """Calibration that a method may spend in one evaluation, with each policy anew."""

    trajectories: int | None = None
    """Passes of one sample through all steps; None for as many as the method asks for."""

    def __post_init__(self) -> None:
        if self.trajectories is not None and self.trajectories < 0:
            raise ValueError(
                f"trajectories must not be negative. Got {self.trajectories}. Pass None for no "
                "limit."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationCost:
    """Calibration that a method has spent."""

    trajectories: int = 0
    """Passes of one sample through all steps, reference samples not counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The methods, policies and sweep grid of one evaluation, and its budgets."""

    methods: tuple[str, ...]
    policies: dict[str, ReusePolicy]
    """Policies by the method name of their rows (:func:`policy_method`)."""
    grid: SweepGrid
    error_budget: float | None = None
    """Relative L2 error within which each policy is to save the most: one more point."""
    calibration_budget: CalibrationBudget = CalibrationBudget()
    """Calibration that each method may spend."""

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


def policy_method(name: str) -> str:
    """The method name of a policy's rows: ``learned``, or ``learned-NAME`` of a named policy."""
    return f"learned-{name}" if name else "learned"


@runtime_checkable
class Session(Protocol):
    """One method's access to an evaluation while it calibrates and lays out its points."""

    @property
    def steps(self) -> int:
        """Sampling steps of the evaluation."""
        ...

    @property
    def comparison(self) -> Comparison:
        """The policies, the sweep grid and the error budget."""
        ...

    @property
    def cost(self) -> CalibrationCost:
        """Calibration that the method has spent so far."""
        ...

    def calibrate(self, tasks: Sequence[Task[R_co]]) -> dict[str, R_co]:
        """Run tasks on the evaluation's workers; results by the names of the tasks.

        Raises:
            InputError: if the tasks go beyond the method's budget; nothing is sampled then.
        """
        ...


Role = Literal["reference", "subject", "alternative", "context"]
"""Part of a method in the report. ``reference``: samples without reuse, in every evaluation.
``subject``: its error over each ``alternative``'s is logged. ``context``: shown only."""


class Method(ABC):
    """One method of an evaluation: built for it, then tuned, then asked for its points."""

    name: ClassVar[str]
    """Name on the command line, and of the rows (``NAME-POLICY`` where several policies meet)."""
    role: ClassVar[Role] = "alternative"
    shown_at: ClassVar[tuple[Literal["reuse_ratio", "flops_ratio"], float]] = ("reuse_ratio", 0.5)
    """Column and value nearest which a point's samples are shown in the report."""
    is_for_paper: ClassVar[bool] = False
    """True for a method of the DQAR paper's experiments alone, which a configuration file enables
    in place of ``--methods``."""
    note: ClassVar[str] = ""
    """Paragraph of the report on how to read the method's rows."""

    @classmethod
    def build(cls, comparison: Comparison) -> Sequence[Method]:
        """The method for one evaluation; one for each policy where it follows policies."""
        return [cls()]

    @classmethod
    def check(cls, info: ModelInfo) -> None:
        """Refuse a model that the method cannot serve.

        Raises:
            InputError: saying why, in one line.
        """
        # Not abstract: most methods serve every model.
        return None

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        """Calibrate through the session, within the budget, and say what was spent.

        The session enforces the budget; it is given so that a method may plan for it. The default
        is for fixed schedules, which need no calibration.
        """
        return session.cost

    @abstractmethod
    def points(self, session: Session) -> list[OperatingPoint]:
        """The operating points of the sweep, after :meth:`tune`."""
