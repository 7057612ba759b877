"""Plan of a collection: the settings of all trajectories, and their division into units."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from dqar.config import CHOICES, DQARConfig
from dqar.step_schedule import StepSchedule, check_computed
from dqar.validation import LARGEST, shown
from pipeline.exploration.collect_settings import EXPLORATION, UNIT_SIZE, CollectSettings
from pipeline.exploration.designs import DESIGNS, TURNS_AT_MOST, Design, parse_designs
from pipeline.models.noise import round_seed
from pipeline.models.sampling_choices import SAMPLER, SITES, STEPS, Sampler, require_sampler

FORECAST_ORDERS = CHOICES["forecast_order"]
TRACE_SCHEMA_VERSION = 3
"""Schema version of the two tables and of the folder around them."""
ONLY_AROUND_A_POLICY = ("bases", "policy_digest")
"""Fields that are written only if they are set. Plans without them keep the hash that they had
before these fields existed."""
FEEDBACKS = (0.0, 0.5)
"""Gains of error feedback that are explored by default; evaluations also try gains near these."""
BOUNDS: dict[str, tuple[str, int]] = {
    "num_trajectories": ("--num-trajectories", 10**9),
    "masks_per_noise": ("masks_per_noise", 10**6),
    "batch_size": ("--unit-size", 10**6),
    "steps": ("--steps", 2**15 - 1),
    "threads": ("threads", 2**10),
}
"""Flag and largest value of each count. Names of merged shards have 12 digits for a unit, and the
table of gates has 16 bits for a step."""
TURNS: dict[str, tuple[str, int]] = {
    "designs": ("--exploration", TURNS_AT_MOST),
    "forecast_orders": ("--forecast-orders", 1000),
    "feedbacks": ("--error-feedback", 1000),
}
"""Flag and largest number of the values that trajectories take in turns; ``plan.json`` lists
them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectPlan(CollectSettings):
    """Settings that determine a dataset's rows. Two folders of one plan hold the same reuse
    decisions."""

    model: str
    """``digits``, a folder, or a hub id."""
    model_hash: str
    """Identity of the model (:mod:`pipeline.models.identity`)."""
    masks_per_noise: int = 3
    """Trajectories that start from the same noise sample and share one reference sample."""
    batch_size: int = UNIT_SIZE
    """Trajectories of a unit."""
    steps: int = STEPS
    """Sampling steps."""
    guidance_scale: float = 4.0
    """Classifier-free guidance."""
    sampler: Sampler = SAMPLER
    """Deterministic sampler, with its settings."""
    sites: tuple[str, ...] = SITES
    """Sub-modules whose reuse is explored."""
    designs: tuple[Design, ...] = parse_designs(EXPLORATION)
    """Exploration designs, assigned to the trajectories in turns; a design named twice takes two
    turns."""
    forecast_orders: tuple[int, ...] = (0,)
    """Forecast orders that a reuse shows (0 shows the cached value), assigned to the trajectories
    as a Latin square; see :meth:`forecast_order`."""
    feedbacks: tuple[float, ...] = (0.0,)
    """Gains of error feedback, assigned to the trajectories as a Latin square; see
    :meth:`feedback`."""
    branch_mode: Literal["tied"] = "tied"
    """Both guidance branches of a sample share one reuse decision."""
    cache_bits: Literal[8, 16, 32] = 8
    """Bits of a cached value."""
    threads: int = 1
    """CPU threads of a worker. Floating-point sums depend on the number of threads."""
    bases: tuple[tuple[int, ...], ...] = ()
    """Computed steps of each schedule that the design ``near-policy`` explores around. With them in
    the plan, workers do not need the policy; see :attr:`schedules`."""
    policy_digest: str = ""
    """Digest of the policy that planned the schedules in ``bases``."""
    schema_version: int = TRACE_SCHEMA_VERSION
    """Schema version of the tables."""

    def __post_init__(self) -> None:
        self._check_bounds()
        require_sampler(self.sampler)
        if self.steps < 2:
            raise ValueError(
                f"steps must be at least 2, or nothing can be reused. Got {self.steps}. "
                "Pass --steps 50."
            )
        if not -LARGEST <= self.seed <= LARGEST:
            raise ValueError(f"seed must fit into 64 bits. Got {self.seed}. Pass --seed 0.")
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale must be finite. Got {self.guidance_scale}. Pass 4.0.")
        if not self.forecast_orders or not set(self.forecast_orders) <= set(FORECAST_ORDERS):
            raise ValueError(
                f"forecast_orders must be chosen from {FORECAST_ORDERS}. Got "
                f"{self.forecast_orders}. Pass 0,1,2."
            )
        if not self.feedbacks or not all(0.0 <= gain <= 1.0 for gain in self.feedbacks):
            raise ValueError(
                f"feedbacks must be gains from 0 to 1. Got {self.feedbacks}. Pass "
                "--error-feedback 0,0.5."
            )
        self.dqar_config()
        unknown = set(self.designs) - set(DESIGNS)
        if unknown or not self.designs:
            raise ValueError(
                f"designs must be chosen from {DESIGNS}. Got {self.designs}. Pass some of them."
            )
        self._check_near_policy_fields()

    def _check_bounds(self) -> None:
        for name, (flag, most) in BOUNDS.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise ValueError(
                    f"{name} must be at least 1 and at most {most}. Got {shown(value)}. Pass "
                    f"another {flag}."
                )
        for name, (flag, most) in TURNS.items():
            if len(getattr(self, name)) > most:
                raise ValueError(
                    f"{name} must have at most {most} values. Got {len(getattr(self, name))}. Pass "
                    f"a shorter {flag}."
                )

    def _check_near_policy_fields(self) -> None:
        is_near = "near-policy" in self.designs
        if {bool(self.bases), bool(self.policy_digest)} != {is_near}:
            raise ValueError(
                f"bases and policy_digest must come with the design near-policy, and that design "
                f"with both fields. Got designs {self.designs} with {len(self.bases)} bases and "
                f"policy_digest {self.policy_digest!r}. Pass --explore-around together with "
                "--exploration near-policy."
            )
        for base in self.bases:
            check_computed(base, self.steps)

    def dqar_config(self, *, enabled: bool = True) -> DQARConfig:
        """Return the configuration of the instrumented model.

        Args:
            enabled: False for the reference samples, which reuse nothing.
        """
        return DQARConfig(
            enabled=enabled,
            quantization_bits=self.cache_bits,
            forecast_order=max(self.forecast_orders),  # pyright: ignore[reportArgumentType] checked above
            sites=self.sites,
            branch_mode=self.branch_mode,
        )

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of the plan as they are written to ``plan.json`` and hashed."""
        everything = {name: getattr(self, name) for name in self.__dataclass_fields__}
        unset = [name for name in ONLY_AROUND_A_POLICY if not everything[name]]
        return {name: value for name, value in everything.items() if name not in unset}

    @property
    def plan_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the plan's canonical JSON."""
        return digest_of_fields(self.fields)

    @property
    def schedules(self) -> tuple[StepSchedule, ...]:
        """Schedules that the design ``near-policy`` explores around."""
        return tuple(StepSchedule(computed=computed) for computed in self.bases)

    @property
    def noise_seed(self) -> int:
        """Random seed of noise samples and reuse decisions.

        Exploring around a policy changes the seed, so that such a collection shares no noise
        sample with the collections that the policy was trained on.
        """
        return round_seed(self.seed, self.policy_digest)

    @property
    def noises_per_unit(self) -> int:
        """Number of reference samples of a unit."""
        return max(1, self.batch_size // self.masks_per_noise)

    @property
    def unit_size(self) -> int:
        """Trajectories of every unit but the last."""
        return self.noises_per_unit * self.masks_per_noise

    @property
    def num_units(self) -> int:
        """Number of units."""
        return -(-self.num_trajectories // self.unit_size)

    def units(self) -> Iterator[Unit]:
        """Yield the units in order; together they hold every trajectory once.

        A plan may have millions of units: each is made when it is asked for.
        """
        plan_hash = self.plan_hash
        return (self.unit(index, plan_hash) for index in range(self.num_units))

    def unit(self, index: int, plan_hash: str) -> Unit:
        """Return the unit of an index.

        Args:
            index: index of the unit, below :attr:`num_units`.
            plan_hash: hash that its id is made from. A plan that an earlier release wrote lacks
                fields, and its hash is not that of all fields.
        """
        start = index * self.unit_size
        stop = min(start + self.unit_size, self.num_trajectories)
        unit_id = digest_of_fields({"plan": plan_hash, "unit": index})
        return Unit(unit_id=unit_id, index=index, start=start, stop=stop)

    def noise_id(self, trajectory: int) -> int:
        """Return the id of the noise sample that a trajectory starts from."""
        return trajectory // self.masks_per_noise

    def forecast_order(self, trajectory: int) -> int:
        """Return the forecast order that a reuse shows in a trajectory; 0 shows the cached value.

        The assignment is a cyclic Latin square (Fisher, *The Design of Experiments*, 1935): its
        columns are the designs, its rows the rounds through all designs, and each row is shifted
        by one against the row before. In as many rounds as there are orders, every design is
        combined with every order once. The trajectories of one noise sample vary in order too.
        """
        return self.forecast_orders[self._turn(trajectory) % len(self.forecast_orders)]

    def feedback(self, trajectory: int) -> float:
        """Return the gain of a trajectory's error feedback.

        The assignment is a cyclic Latin square as in :meth:`forecast_order`, with the forecast
        orders as columns: every order is combined with every gain.
        """
        turn = self._turn(trajectory) % (len(self.forecast_orders) * len(self.feedbacks))
        place = turn % len(self.forecast_orders) + turn // len(self.forecast_orders)
        return self.feedbacks[place % len(self.feedbacks)]

    def _turn(self, trajectory: int) -> int:
        turn, design = divmod(trajectory, len(self.designs))
        return turn + design

    def trajectory_id(self, trajectory: int) -> str:
        """Return the id of a trajectory in both tables."""
        return f"{self.plan_hash[:8]}-{trajectory:06d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Unit of a collection: trajectories that one worker collects and commits together."""

    unit_id: str
    """Digest of the plan's hash and the unit's index, 16 hex digits."""
    index: int
    """Index of the unit in the plan."""
    start: int
    """Index of the first trajectory."""
    stop: int
    """Index after the last trajectory."""

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitsLeft:
    """Units of a plan that are not done, each made when it is asked for."""

    plan: CollectPlan
    """The plan."""
    done: frozenset[str]
    """Ids of the units of the plan that are done."""

    def __len__(self) -> int:
        return self.plan.num_units - len(self.done)

    def __iter__(self) -> Iterator[Unit]:
        return (unit for unit in self.plan.units() if unit.unit_id not in self.done)


def canonical_json(value: dict[str, Any]) -> str:
    """Encode a JSON document independently of the order of its keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest_of_fields(value: dict[str, Any]) -> str:
    """Return the first 16 hex digits of the SHA-256 of a document's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]
