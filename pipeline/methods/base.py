"""Interface of the methods that an evaluation compares, and the settings that all methods share.

A new method is one file in this package and one line in :mod:`pipeline.methods.registry`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from dqar.finite_fields import require_finite
from dqar.gates.base import Gate
from dqar.policy.network import ReusePolicy
from dqar.step_schedule import StepSchedule
from pipeline.methods.calibration import CalibrationResult, CalibrationTask
from pipeline.methods.task import R_co, Task
from pipeline.models.model_info import ModelInfo
from pipeline.models.sampling_choices import Sampler

PAPER_WARMUP = 0.2
"""Share of the sampling steps, from the first on, in which the DQAR paper reuses nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepGrid:
    """Settings at which each method is sampled; comparisons interpolate between the settings."""

    steps: tuple[float, ...] = (0.9, 0.8, 0.66, 0.6, 0.5, 0.4, 0.34, 0.25)
    """Shares of the sampling steps that ``fewer-steps`` keeps."""
    periods: tuple[int, ...] = (2, 3, 4, 5, 6)
    """Periods of ``interval``: with period k all sites compute at every k-th step."""
    layer_fractions: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Layer fractions of ``linear`` (:class:`dqar.layer_schedule.LayerSchedule`)."""
    entropy_quantiles: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    """Quantiles of the observed attention entropy that ``threshold`` takes as its threshold tau."""
    reuse_ratios: tuple[float, ...] = tuple(
        percent / 100 for percent in (20, 28, 32, 40, 48, 52, 60, 66, 72, 78, 82)
    )
    """Reuse ratios that the calibrated methods aim at."""

    def __post_init__(self) -> None:
        require_finite(self, "steps", "layer_fractions", "entropy_quantiles", "reuse_ratios")


FINE = SweepGrid()
COARSE = SweepGrid(
    steps=(0.7, 0.5, 0.34, 0.25),
    periods=(2, 3, 4),
    layer_fractions=(0.5, 1.0),
    entropy_quantiles=(0.5, 1.0),
    reuse_ratios=(0.4, 0.5, 0.6, 0.68, 0.76),
)
"""Settings on both sides of 2x and 3x fewer FLOPs, where attention and feed-forward are reused."""
GRIDS = {"fine": FINE, "coarse": COARSE}
"""Sweep grids by name, as the command line takes them."""
ScheduleSource = Literal["policy", "alternative", "uniform", "spaced", "stretches", "search"]
"""Origin of a schedule: planned by the policy, an alternative that the policy's training made, the
same number of computed steps spread evenly or by a spacing rule, the minimax path over stretches,
or a search's local moves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """One method at one setting: its gate, forecast order and error feedback."""

    method: str
    """Method name of the row in results.json."""
    operating_point: str
    """Name of the setting, unique among the operating points of the method."""
    steps: int
    """Sampling steps."""
    gate: Gate | None = None
    """Rule that decides where to reuse; None samples without reuse."""
    forecast_order: int = 0
    """Order of the forecast that a reuse shows; 0 shows the cached value unchanged."""
    feedback: float = 0.0
    """Gain of the error feedback."""
    schedule: StepSchedule | None = None
    """Schedule of the point, for a policy that plans whole runs; None for other methods."""
    schedule_source: ScheduleSource | None = None
    """Origin of :attr:`schedule`; a plan is written for a point that has both."""
    sampler: Sampler | None = None
    """Sampler in place of the evaluation's, such as ``dpm``. The reference samples keep the
    evaluation's sampler."""


Calibrate = Callable[[list[CalibrationTask]], dict[str, CalibrationResult]]
"""Runs calibration tasks of gates and returns their results by task name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBudget:
    """Limit on the tuning of each method in one evaluation, counted separately per policy."""

    evaluations: int | None = None
    """Most guided model evaluations (one step of one sample with all its guidance branches) for all
    operating points of a method together, reference samples and exploration included; None for no
    limit."""

    def __post_init__(self) -> None:
        if self.evaluations is not None and self.evaluations < 0:
            raise ValueError(
                f"evaluations must not be negative. Got {self.evaluations}. Pass None for no limit."
            )

    def trajectories(self, steps: int, references: int = 0) -> int | None:
        """Return how many trajectories the budget allows beside reference samples; None for any."""
        if self.evaluations is None:
            return None
        return max(0, self.evaluations // steps - references)


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationCost:
    """Calibration that one method has spent."""

    trajectories: int = 0
    """Trajectories run: passes of one sample through all sampling steps. Reference samples are not
    counted."""
    evaluations: int = 0
    """Guided model evaluations: of the trajectories, whatever they reuse, of the reference samples
    that they are compared with, and of the exploration that a policy was trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Methods, policies and sweep grid of one evaluation, with its budgets."""

    methods: tuple[str, ...]
    """Names of the methods to compare."""
    policies: dict[str, ReusePolicy]
    """Policies by the method name of their rows (:func:`policy_method`)."""
    grid: SweepGrid
    """Settings of each method."""
    error_budget: float | None = None
    """Relative L2 error that a policy may make. Each policy then has one more operating point: the
    most reuse within this error. None for no such point."""
    calibration_budget: CalibrationBudget = CalibrationBudget()
    """Limit on the calibration of each method."""
    solution_steps: int | None = None
    """Steps of the solutions that rows are compared with too; None without solutions."""

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
    """Return the name of the operating point of an error budget."""
    return f"budget={error_budget:g}"


def policy_method(name: str) -> str:
    """Return the method name of a policy's rows: ``learned``, or ``learned-NAME``."""
    return f"learned-{name}" if name else "learned"


@runtime_checkable
class Session(Protocol):
    """Access of one method to an evaluation: its settings, and calibration on its workers."""

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
        """Calibration that this method has spent so far."""
        ...

    def calibrate(self, tasks: Sequence[Task[R_co]]) -> dict[str, R_co]:
        """Run tasks on the evaluation's workers and return their results by task name.

        Raises:
            InputError: if the tasks exceed the method's budget; nothing is sampled then.
        """
        ...


Role = Literal["reference", "subject", "alternative", "context"]
"""Role of a method in the report. ``reference``: sampling without reuse, part of every evaluation.
``subject``: a learned method; the ratio of its error to the error of each ``alternative`` is
logged. ``context``: shown in the tables, in no ratio."""


class Method(ABC):
    """Base class of methods. An evaluation builds a method, tunes it, then asks for its points."""

    name: ClassVar[str]
    """Name on the command line and in the rows of results.json, where a named policy is appended
    (``NAME-POLICY``)."""
    role: ClassVar[Role] = "alternative"
    """Role in the report."""
    shown_at: ClassVar[tuple[Literal["reuse_ratio", "flops_ratio"], float]] = ("reuse_ratio", 0.5)
    """A column of results.json and a value: samples.png shows the operating point nearest to it."""
    is_for_paper: ClassVar[bool] = False
    """True for a method of the DQAR paper's experiments alone, which a configuration file enables
    in place of ``--methods``."""
    note: ClassVar[str] = ""
    """Paragraph of the report on how to read the method's rows; empty for none."""

    @classmethod
    def build(cls, comparison: Comparison) -> Sequence[Method]:
        """Return the instances for one evaluation: one, or one for each policy."""
        return [cls()]

    @classmethod
    def check(cls, info: ModelInfo) -> None:
        """Refuse a model that the method cannot serve.

        Raises:
            InputError: with the reason and the fix in one line.
        """
        # Not abstract, since most methods serve every model.
        return None

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        """Calibrate through the session and return the calibration spent.

        The session refuses tasks beyond the budget; ``budget`` is passed so that a method can
        choose its tasks by it. The default calibrates nothing, as fixed schedules need nothing.
        """
        return session.cost

    @abstractmethod
    def points(self, session: Session) -> list[OperatingPoint]:
        """Return the operating points; called after :meth:`tune`."""
