"""The plan of a collection: a deterministic list of units, each one shard."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from dqar.config import CHOICES, DQARConfig
from dqar.step_schedule import StepSchedule, check_computed
from pipeline.exploration.collect_settings import EXPLORATION, UNIT_SIZE, CollectSettings
from pipeline.exploration.designs import DESIGNS, Design, parse_designs
from pipeline.models.noise import round_seed
from pipeline.models.sampling_choices import SAMPLER, SITES, STEPS, Sampler
from pipeline.storage.json_schema import LARGEST

FORECAST_ORDERS = CHOICES["forecast_order"]
TRACE_SCHEMA_VERSION = 3
"""Version of the two tables and of the folder around them."""
ONLY_AROUND_A_POLICY = ("bases", "policy_digest")
"""Fields that are written where they say something, so that other plans keep their hash."""
FEEDBACKS = (0.0, 0.5)
"""Gains of error feedback that are explored by default; evaluations look at gains beside them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectPlan(CollectSettings):
    """Everything that decides a dataset's rows. Two folders of one plan hold the same decisions."""

    model: str
    """``digits``, a folder, or a hub id."""
    model_hash: str
    """Digest of its transformer's files."""
    masks_per_noise: int = 3
    """Trajectories that share one twin."""
    batch_size: int = UNIT_SIZE
    """Trajectories of a unit."""
    steps: int = STEPS
    """Sampling steps."""
    guidance_scale: float = 4.0
    """Classifier-free guidance."""
    sampler: Sampler = SAMPLER
    """Deterministic sampler."""
    sites: tuple[str, ...] = SITES
    """Sub-modules whose reuse is explored."""
    designs: tuple[Design, ...] = parse_designs(EXPLORATION)
    """Exploration designs; trajectories take them in turns, and one named twice comes twice."""
    forecast_orders: tuple[int, ...] = (0,)
    """What a reuse shows; trajectories take them in turns, so that every design meets each."""
    feedbacks: tuple[float, ...] = (0.0,)
    """Gains of error feedback; trajectories take them in turns, so that every order of forecasts
    meets each."""
    branch_mode: Literal["tied"] = "tied"
    """Both guidance branches of a sample share a verdict."""
    cache_bits: Literal[8, 16, 32] = 8
    """Bits of a cached value."""
    threads: int = 1
    """CPU threads of a worker's arithmetic: sums, and so floats, depend on their number."""
    bases: tuple[tuple[int, ...], ...] = ()
    """Computed steps of the schedules that ``near-policy`` explores around, so that no worker needs
    the policy; see :attr:`schedules`."""
    policy_digest: str = ""
    """Digest of the policy that planned them."""
    schema_version: int = TRACE_SCHEMA_VERSION
    """Version of the tables."""

    def __post_init__(self) -> None:
        for name in ("num_trajectories", "masks_per_noise", "batch_size", "threads"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1. Got {value}. Pass a larger one.")
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
        self._refuse_half_a_round()

    def _refuse_half_a_round(self) -> None:
        is_near = "near-policy" in self.designs
        if {bool(self.bases), bool(self.policy_digest)} != {is_near}:
            raise ValueError(
                f"bases and policy_digest must come with the design near-policy, and it with them. "
                f"Got designs {self.designs} with {len(self.bases)} bases of policy "
                f"{self.policy_digest!r}. Pass --explore-around together with --exploration "
                "near-policy."
            )
        for base in self.bases:
            check_computed(base, self.steps)

    def dqar_config(self, *, enabled: bool = True) -> DQARConfig:
        """How the model is instrumented; not enabled for the twins."""
        return DQARConfig(
            enabled=enabled,
            quantization_bits=self.cache_bits,
            forecast_order=max(self.forecast_orders),  # pyright: ignore[reportArgumentType] checked above
            sites=self.sites,
            branch_mode=self.branch_mode,
        )

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields as they are written."""
        everything = {name: getattr(self, name) for name in self.__dataclass_fields__}
        unsaid = [name for name in ONLY_AROUND_A_POLICY if not everything[name]]
        return {name: value for name, value in everything.items() if name not in unsaid}

    @property
    def plan_hash(self) -> str:
        """SHA-256 of the plan's canonical JSON, 16 hex digits."""
        return _digest(self.fields)

    @property
    def schedules(self) -> tuple[StepSchedule, ...]:
        """Schedules that ``near-policy`` explores around."""
        return tuple(StepSchedule(computed=computed) for computed in self.bases)

    @property
    def noise_seed(self) -> int:
        """Seed of noise and coins, another for each policy that is explored around."""
        return round_seed(self.seed, self.policy_digest)

    @property
    def noises_per_unit(self) -> int:
        """Twins that a unit samples."""
        return max(1, self.batch_size // self.masks_per_noise)

    def units(self) -> Iterator[Unit]:
        """The units in order; together they hold every trajectory once."""
        size, plan_hash = self.noises_per_unit * self.masks_per_noise, self.plan_hash
        for index, start in enumerate(range(0, self.num_trajectories, size)):
            stop = min(start + size, self.num_trajectories)
            unit_id = _digest({"plan": plan_hash, "unit": index})
            yield Unit(unit_id=unit_id, index=index, start=start, stop=stop)

    def noise_id(self, trajectory: int) -> int:
        """The noise that a trajectory starts from."""
        return trajectory // self.masks_per_noise

    def forecast_order(self, trajectory: int) -> int:
        """What a reuse shows in a trajectory. Turns shift by one with each round of the designs:
        every design meets every order, and so do trajectories of one noise."""
        return self.forecast_orders[self._turn(trajectory) % len(self.forecast_orders)]

    def feedback(self, trajectory: int) -> float:
        """Gain of a trajectory's error feedback. It goes on with each trajectory, and by one more
        with each round of the orders: every order meets every gain."""
        turn = self._turn(trajectory) % (len(self.forecast_orders) * len(self.feedbacks))
        place = turn % len(self.forecast_orders) + turn // len(self.forecast_orders)
        return self.feedbacks[place % len(self.feedbacks)]

    def _turn(self, trajectory: int) -> int:
        turn, design = divmod(trajectory, len(self.designs))
        return turn + design

    def trajectory_id(self, trajectory: int) -> str:
        """Name of a trajectory in both tables."""
        return f"{self.plan_hash[:8]}-{trajectory:06d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Work that is done and committed as one: trajectories ``start`` to ``stop``."""

    unit_id: str
    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def canonical_json(value: dict[str, Any]) -> str:
    """One spelling of a JSON document, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]
