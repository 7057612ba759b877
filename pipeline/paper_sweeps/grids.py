"""What the seed sweeps on a trained model: layer schedules (warm-up, layer fraction, direction) and
the ablations of its ``scripts/evaluate.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dqar.config import DQARConfig
from dqar.gates.base import Gate
from dqar.gates.paper_cascade import paper_cascade
from dqar.gates.rules import Interval, Scheduled
from dqar.layer_schedule import LayerSchedule, ScheduleType

CacheBits = Literal[8, 16, 32]
ABLATIONS = ("baseline", "entropy_gate", "quant_cache", "full_dqar")
DIT_XL = {"num_layers": 28, "steps": 50}
"""The model and the run that the seed's reuse ratios are of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One point of a sweep before it is measured."""

    setting: dict[str, Any]
    """What distinguishes it."""
    gate: Gate | None = None
    """None samples without reuse."""
    cache_bits: CacheBits = 16
    """Bits of a cached value."""
    schedule: LayerSchedule | None = None
    """The layer schedule, where it alone decides."""


def _require_some(name: str, values: tuple) -> None:
    if not values:
        raise ValueError(f"{name} must hold at least one value. Got none. Pass one.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleGrid:
    """Layer schedules that decide alone: no entropy, no SNR window, no refresh."""

    schedule_types: tuple[ScheduleType, ...] = ("linear",)
    """``linear`` lets the shallowest layers reuse first, ``linear-reverse`` the deepest."""
    warmups: tuple[float, ...] = (0.2,)
    """Shares of the run before which nothing reuses."""
    layer_fractions: tuple[float, ...] = (1 / 3, 1 / 2, 2 / 3, 3 / 4, 1.0)
    """Shares of the layers that the schedule reaches on the last step."""
    cache_bits: CacheBits = 16
    """Bits of a cached value; the seed recommends 16."""

    def __post_init__(self) -> None:
        for name in ("schedule_types", "warmups", "layer_fractions"):
            _require_some(name, getattr(self, name))
        self.schedules()

    def schedules(self) -> list[LayerSchedule]:
        """Every combination."""
        return [
            LayerSchedule(schedule_type=kind, warmup_fraction=warmup, layer_fraction=fraction)
            for kind in self.schedule_types
            for warmup in self.warmups
            for fraction in self.layer_fractions
        ]

    def candidates(self) -> list[Candidate]:
        """The baseline, whose speed-up over its own twin shows how far the clock can be trusted,
        and every schedule."""
        names = ("method", "warmup_fraction", "layer_fraction")
        baseline = Candidate(setting=dict(zip(names, ("baseline", None, None), strict=True)))
        return [baseline, *(self._candidate(schedule, names) for schedule in self.schedules())]

    def _candidate(self, schedule: LayerSchedule, names: tuple[str, ...]) -> Candidate:
        values = (schedule.schedule_type, schedule.warmup_fraction, schedule.layer_fraction)
        return Candidate(
            setting=dict(zip(names, values, strict=True)),
            gate=Scheduled(schedule),
            cache_bits=self.cache_bits,
            schedule=schedule,
        )


GRIDS = {
    "warmup": ScheduleGrid(warmups=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), layer_fractions=(1 / 3,)),
    "layer-fraction": ScheduleGrid(),
    "direction": ScheduleGrid(schedule_types=("linear", "linear-reverse")),
}
"""The seed's ``scripts/warmup_sweep.py``, ``scripts/layer_sweep.py``, and the latter both ways."""


def schedule_ratio(schedule: LayerSchedule, num_layers: int, steps: int) -> float:
    """Reuse ratio by arithmetic of a schedule that decides alone, step 0 included.

    Example: LINEAR with warm-up 0.2 and half of 28 layers over 50 steps gives 0.1871.
    """
    shares = (step / max(1, steps - 1) for step in range(steps))
    allowed = sum(schedule.num_eligible(share, num_layers) for share in shares)
    return allowed / (num_layers * steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationGrid:
    """What each part of the method does alone.

    ``entropy_gate`` is the seed's cascade without its layer schedule, on an fp32 cache;
    ``quant_cache`` reuses every second step without gating, on the int8 cache; ``full_dqar`` is
    the cascade with the layer schedule on the int8 cache.
    """

    ablations: tuple[str, ...] = ABLATIONS
    """Which."""
    entropy_quantile: float = 0.5
    """Quantile of the entropy observed on calibration noise that is taken for tau. A fixed tau
    would not do: 16 tokens have at most ln 16 = 2.77 nats."""
    entropy_threshold: float | None = None
    """tau in nats, in place of that quantile."""

    def __post_init__(self) -> None:
        _require_some("ablations", self.ablations)
        if unknown := sorted(set(self.ablations) - set(ABLATIONS)):
            raise ValueError(f"ablations must be among {ABLATIONS}. Got {unknown}. Check them.")
        if not 0.0 <= self.entropy_quantile <= 1.0:
            raise ValueError(
                f"entropy_quantile must be in [0, 1]. Got {self.entropy_quantile}. Pass 0.5."
            )
        if self.entropy_threshold is not None and not self.entropy_threshold > 0:
            raise ValueError(
                f"entropy_threshold must be positive. Got {self.entropy_threshold}. Pass 2.0."
            )

    def candidates(self, tau: float) -> list[Candidate]:
        """The ablations, with tau in nats for those that gate by entropy."""
        return [ablation(name, tau) for name in self.ablations]


def ablation(name: str, tau: float) -> Candidate:
    """One of :data:`ABLATIONS`."""
    setting = {"ablation": name}
    if name == "baseline":
        return Candidate(setting=setting)
    if name == "quant_cache":
        return Candidate(setting=setting, gate=Interval(2), cache_bits=8)
    is_full = name == "full_dqar"
    cascade = paper_cascade(DQARConfig(entropy_threshold=tau, use_layer_scheduling=is_full))
    return Candidate(setting=setting, gate=cascade, cache_bits=8 if is_full else 32)
