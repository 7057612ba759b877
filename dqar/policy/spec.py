"""Description of a policy without its weights: features, training setting and schedules."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import Literal

from dqar.finite_fields import require_finite
from dqar.records import FEATURE_SETS, FEATURES, SITES
from dqar.sampler_names import SOLVERS, is_sampler
from dqar.step_schedule import ReuseSetting, StepSchedule, check_computed, check_setting

SCHEMA_VERSION = 1
"""Version of the policy folder."""
CACHE_BITS = {"int2": 2, "int4": 4, "int8": 8, "fp16": 16, "fp32": 32}
"""Bits of a cached value, by the name of how it is stored."""

EXPLORATION = "exploration_evaluations"
"""Key of :attr:`PolicySpec.metrics`: guided model evaluations of the traces that a policy was
trained on, reference samples included."""
MAX_COUNT = 2**31 - 1
"""The largest count."""
MAX_WIDTH = 4096
"""Most units of a hidden layer."""
MAX_LAYERS = 64
"""Most hidden layers."""
MAX_GUIDANCE = 1000.0
"""Largest guidance scale."""
LARGEST_SCALE = 1e18
"""Largest mean and scale of a feature; its inverse is the least scale."""
RANGES = {
    "members": (1, 64),
    **dict.fromkeys(("max_gap", "num_layers", "steps"), (0, MAX_COUNT)),
}
"""Least and largest value, by field."""


CHOICES = {"branch_mode": ("tied", "independent")}
"""Values of fields that select a behaviour."""
TEXTS = ("model_hash", "trace_digest")
"""Fields of free text."""
MAX_CHARACTERS = 1000
"""Longest free text."""
FINITE = (
    "means",
    "scales",
    "log_threshold",
    "plan_errors",
    "error_budget",
    "temperature",
    "savings",
    "guidance",
    "metrics",
)
"""Fields that must hold finite numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicySpec:
    """Features, network sizes, training setting and schedules of a policy: ``policy.json``."""

    features: tuple[str, ...] = FEATURE_SETS["seed"]
    """Feature names in the order of the input."""
    means: tuple[float, ...] = ()
    """Subtracted from each feature; zeros by default."""
    scales: tuple[float, ...] = ()
    """Divides each feature; ones by default."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers."""
    members: int = 1
    """Networks of the ensemble, whose mean is the prediction; choosing the least of one network's
    predictions favours that network's errors."""
    granularity: Literal["gate", "step"] = "gate"
    """``gate`` decides each layer alone; ``step`` decides all layers of a site together, by their
    mean predicted damage: layers that are stale at the same steps disturb each other less."""
    max_gap: int = 1_000_000
    """Staleness in steps beyond which the policy computes: training saw hardly any larger gap."""
    log_threshold: float = 0.0
    """Default operating point: reuse where the predicted log damage is below it."""
    plans: tuple[tuple[int, ...], ...] = ()
    """Computed steps of one schedule for each number of computed steps; empty for a policy that
    decides gate by gate."""
    plan_errors: tuple[float, ...] = ()
    """Predicted relative L2 error of the final latent, for each of ``plans``."""
    rivals: tuple[StepSchedule, ...] = ()
    """Alternative schedules that an evaluation compares with the policy's own on samples."""
    error_budget: float = 0.01
    """Relative L2 error that sets the default schedule: the one with the fewest computed steps
    whose predicted error stays within the budget."""
    temperature: float = 1.0
    """Softness of the reuse probability, in units of log damage."""
    savings: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SITES, 1.0))
    """Relative cost that one reuse saves, by site; predicted damage is divided by the saving."""
    sites: tuple[str, ...] = ("attn",)
    """Sites that the policy was trained on."""
    actions: tuple[str, ...] = ("compute", "reuse")
    """Actions that the policy chooses from."""
    cache_mode: str = "int8"
    """Storage format of cached values during collection, such as ``int8``."""
    forecast_order: int = 0
    """Order of the forecasts that reuse showed in the training traces; 0 for the cached value."""
    feedback: float = 0.0
    """Gain of the error feedback in the policy's runs, as :attr:`dqar.DQARConfig.feedback`."""
    branch_mode: str = "tied"
    """``tied`` if guidance branches shared their reuse decisions during collection, else
    ``independent``."""
    num_layers: int = 0
    """Transformer blocks of the model; 0 for a policy that is tied to no model."""
    steps: int = 0
    """Sampling steps; 0 for a policy that is tied to no sampler."""
    sampler: str = ""
    """Sampler of the training traces (:mod:`dqar.sampler_names`); empty for a policy that is tied
    to none."""
    guidance: float = 0.0
    """Guidance scale of the training traces."""
    model_hash: str = ""
    """Identity of the model of the training traces; empty for a policy that is tied to no model."""
    trace_digest: str = ""
    """Digest of the traces that the policy was fitted on."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the fit on held-out trajectories."""
    lineage: dict[str, str] = field(default_factory=dict)
    """MLflow run ids of the stages before: parent, collect, train."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""

    def __post_init__(self) -> None:
        _check_names("features", self.features, FEATURES)
        _check_names("sites", self.sites, SITES)
        if self.granularity not in ("gate", "step"):
            raise ValueError(
                f"granularity must be gate or step. Got {self.granularity!r}. Pass 'step'."
            )
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(
                    f"{name} must be one of {choices}. Got {value!r:.60}. Train the policy again."
                )
        if self.sampler and not is_sampler(self.sampler):
            raise ValueError(
                f"sampler must be one of {', '.join(SOLVERS)}, with settings or without. Got "
                f"{self.sampler!r:.60}. Train the policy again."
            )
        for name in TEXTS:
            if len(getattr(self, name)) > MAX_CHARACTERS:
                raise ValueError(
                    f"{name} must be of at most {MAX_CHARACTERS} characters. Got "
                    f"{len(getattr(self, name))}. Train the policy again."
                )
        _check_lineage(self.lineage)
        require_finite(self, *FINITE)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0. Got {self.temperature}. Pass 1.0.")
        for name, (least, most) in RANGES.items():
            _check_range(name, getattr(self, name), least, most)
        _check_range("the number of hidden layers", len(self.hidden), 0, MAX_LAYERS)
        for width in self.hidden:
            _check_range("hidden", width, 1, MAX_WIDTH)
        if self.cache_mode not in CACHE_BITS:
            raise ValueError(
                f"cache_mode must be one of {tuple(CACHE_BITS)}. Got {self.cache_mode!r}. "
                "Pass 'int8'."
            )
        if abs(self.guidance) > MAX_GUIDANCE:
            raise ValueError(
                f"guidance must be within {MAX_GUIDANCE:g} of 0. Got {self.guidance}. Train the "
                "policy again."
            )
        _check_plans(self.plans, self.plan_errors, self.steps)
        check_setting(self.forecast_order, self.feedback)
        for alternative in self.rivals:
            check_computed(alternative.computed, self.steps)
        for name in ("means", "scales"):
            given = getattr(self, name)
            if given and len(given) != len(self.features):
                raise ValueError(
                    f"{name} must have one value a feature. Got {len(given)} for "
                    f"{len(self.features)}. Leave it empty or give them all."
                )
        _check_scaling(self.means, self.scales)
        if least := [value for value in self.savings.values() if value < 0]:
            raise ValueError(f"savings must be at least 0. Got {least[0]}. Train the policy again.")

    @property
    def setting(self) -> ReuseSetting:
        """Order of forecasts and gain of the error feedback in the policy's runs."""
        return self.forecast_order, self.feedback

    @property
    def schedules(self) -> tuple[StepSchedule, ...]:
        """The policy's own schedule for each number of computed steps, fewest first."""
        order, gain = self.setting
        return tuple(
            StepSchedule(computed=plan, forecast_order=order, feedback=gain) for plan in self.plans
        )

    def schedule_of(self, num_computed: int | None = None) -> StepSchedule:
        """Return the schedule with a number of computed steps.

        Args:
            num_computed: number of computed steps; by default the fewest whose predicted error is
                within the error budget, or the most where none is.

        Raises:
            ValueError: if the policy has no such schedule.
        """
        by_number = {len(schedule): schedule for schedule in self.schedules}
        if num_computed is None and self.plans:
            within = (error <= self.error_budget for error in self.plan_errors)
            return next(itertools.compress(self.schedules, within), self.schedules[-1])
        if num_computed not in by_number:
            raise ValueError(
                f"The policy must have a plan of that many steps. Got {num_computed}, of "
                f"{sorted(by_number)}. Pass one of them, or train with --features schedule."
            )
        return by_number[num_computed]

    def refuse_misfit(
        self,
        sites: tuple[str, ...],
        branch_mode: str,
        cached: str,
        forecast_order: int = 0,
        feedback: float = 0.0,
    ) -> None:
        """Refuse a configuration that the policy was not trained on.

        Raises:
            ValueError: naming what does not fit.
        """
        # A schedule holds for all of the policy's sites together.
        misses = set(sites) != set(self.sites) if self.plans else set(sites) - set(self.sites)
        if misses or branch_mode != self.branch_mode or cached == "kv":
            raise ValueError(
                f"The policy must fit the configuration. Got one of the sites {self.sites}, "
                f"{self.branch_mode} branches and cached outputs for {sites}, {branch_mode}, "
                f"cached={cached!r}. Collect and train with that configuration."
            )
        if forecast_order != self.forecast_order:
            raise ValueError(
                f"The policy must fit forecast_order. Got one trained on {self.forecast_order} for "
                f"{forecast_order}. Pass forecast_order={self.forecast_order}, or train another."
            )
        if feedback != self.feedback:
            raise ValueError(
                f"The policy must fit feedback. Got one that plans with {self.feedback} for "
                f"{feedback}. Pass feedback={self.feedback}, or train another."
            )

    def saving_of_site(self) -> list[float]:
        """Return the savings in the order of :data:`SITES`."""
        return [self.savings.get(site, 1.0) for site in SITES]


def _check_lineage(lineage: dict[str, str]) -> None:
    """Refuse texts that are no names of stages or run ids, since they become tags in MLflow."""
    for text in itertools.chain.from_iterable(lineage.items()):
        if not re.fullmatch(r"[\w.:-]{0,100}", text):
            raise ValueError(
                f"lineage must hold run ids by stage. Got {text!r:.60}. Train the policy again."
            )


def _check_names(field: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not given or len(set(given)) < len(given) or not set(given) <= set(known):
        raise ValueError(
            f"{field} must be known names, each once. Got {given!s:.200}. Choose from {known}."
        )


def _check_scaling(means: tuple[float, ...], scales: tuple[float, ...]) -> None:
    """Refuse means and scales with which a feature in fp32 is no finite number."""
    if any(abs(mean) > LARGEST_SCALE for mean in means):
        raise ValueError(
            f"means must be within {LARGEST_SCALE:g} of 0. Got {means!s:.80}. "
            "Train the policy again."
        )
    if not all(1 / LARGEST_SCALE <= scale <= LARGEST_SCALE for scale in scales):
        raise ValueError(
            f"scales must be from {1 / LARGEST_SCALE:g} to {LARGEST_SCALE:g}. Got {scales!s:.80}. "
            "Train the policy again."
        )


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(
            f"{name} must be from {least} to {most}. Got {value}. Train the policy again."
        )


def _check_plans(plans: tuple[tuple[int, ...], ...], errors: tuple[float, ...], steps: int) -> None:
    for plan in plans:
        check_computed(plan, steps)
    if errors and min(errors) < 0:
        raise ValueError(
            f"plan_errors must be at least 0. Got {min(errors)}. Train the policy again."
        )
    numbers = [len(plan) for plan in plans]
    if numbers != sorted(set(numbers)) or len(errors) != len(plans):
        raise ValueError(
            f"plans must come with an error each, fewest steps first. Got {len(errors)} errors for "
            f"plans of {numbers} steps. Train the policy again."
        )
