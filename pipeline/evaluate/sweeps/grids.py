"""Grids of gates: the DQAR paper's layer schedules (warm-up, layer fraction, direction) and
ablations on a trained model, and the scenarios of the DQAR talk's threshold sweep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dqar.config import DQARConfig
from dqar.gates.base import Gate
from dqar.gates.paper_cascade import paper_cascade
from dqar.gates.rules import Interval, RequireCached, Scheduled
from dqar.layer_schedule import LayerSchedule, ScheduleType
from pipeline.methods.base import OperatingPoint

CacheBits = Literal[2, 4, 8, 16, 32]
ABLATIONS = ("baseline", "entropy_gate", "quant_cache", "full_dqar")
DIT_XL = {"num_layers": 28, "steps": 50}
"""The model and the steps of the reuse ratios in the DQAR paper."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GridPoint:
    """One setting of a sweep before it is measured."""

    setting: dict[str, Any]
    """Values that tell it from the other points, the same keys in every point of a sweep."""
    gate: Gate | None = None
    """None samples without reuse."""
    cache_bits: CacheBits = 16
    """Bits of a cached value."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Figures that are known without a measurement."""

    def at(self, steps: int) -> OperatingPoint:
        """The operating point of a number of steps, named by the setting."""
        name = " ".join(f"{value}" for value in self.setting.values())
        return OperatingPoint(method=name, operating_point=name, steps=steps, gate=self.gate)


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
    """Bits of a cached value; the DQAR paper recommends 16."""

    def __post_init__(self) -> None:
        for name in ("schedule_types", "warmups", "layer_fractions"):
            _require_some(name, getattr(self, name))
        self.schedules()

    def schedules(self) -> list[LayerSchedule]:
        """Every combination of the values."""
        return [
            LayerSchedule(schedule_type=kind, warmup_fraction=warmup, layer_fraction=fraction)
            for kind in self.schedule_types
            for warmup in self.warmups
            for fraction in self.layer_fractions
        ]

    def points(self, num_layers: int, steps: int) -> list[GridPoint]:
        """The baseline, whose speed-up over its own reference samples shows how far the clock can
        be trusted, and every schedule.

        Args:
            num_layers: of the model.
        """
        baseline = GridPoint(
            setting={"method": "baseline", "warmup_fraction": None, "layer_fraction": None},
            facts={"reuse_ratio_by_schedule": 0.0, "reuse_ratio_dit_xl": 0.0},
        )
        return [baseline, *(self._point(one, num_layers, steps) for one in self.schedules())]

    def _point(self, schedule: LayerSchedule, num_layers: int, steps: int) -> GridPoint:
        return GridPoint(
            setting={
                "method": schedule.schedule_type,
                "warmup_fraction": schedule.warmup_fraction,
                "layer_fraction": schedule.layer_fraction,
            },
            gate=Scheduled(schedule),
            cache_bits=self.cache_bits,
            facts={
                "reuse_ratio_by_schedule": schedule_ratio(schedule, num_layers, steps),
                "reuse_ratio_dit_xl": schedule_ratio(schedule, **DIT_XL),
            },
        )


GRIDS = {
    "warmup": ScheduleGrid(warmups=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), layer_fractions=(1 / 3,)),
    "layer-fraction": ScheduleGrid(),
    "direction": ScheduleGrid(schedule_types=("linear", "linear-reverse")),
}
"""``scripts/warmup_sweep.py`` and ``scripts/layer_sweep.py`` of the DQAR paper, and the latter in
both directions."""


def schedule_ratio(schedule: LayerSchedule, num_layers: int, steps: int) -> float:
    """Reuse ratio by arithmetic of a schedule that decides alone, step 0 included.

    Example: LINEAR with warm-up 0.2 and half of 28 layers over 50 steps gives 0.1871.
    """
    shares = (step / max(1, steps - 1) for step in range(steps))
    allowed = sum(schedule.num_eligible(share, num_layers) for share in shares)
    return allowed / (num_layers * steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationGrid:
    """The parts of the DQAR paper's method, each alone, and all of them.

    ``entropy_gate`` is the paper's cascade without its layer schedule, on an fp32 cache;
    ``quant_cache`` reuses every second step without gating, on the int8 cache; ``full_dqar`` is
    the cascade with the layer schedule on the int8 cache.
    """

    ablations: tuple[str, ...] = ABLATIONS
    """Names among :data:`ABLATIONS`."""
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

    def points(self, tau: float) -> list[GridPoint]:
        """The ablations.

        Args:
            tau: entropy threshold in nats of those that gate by entropy.
        """
        return [ablation(name, tau) for name in self.ablations]


def ablation(name: str, tau: float) -> GridPoint:
    """One of :data:`ABLATIONS`."""
    setting = {"ablation": name}
    if name == "baseline":
        return GridPoint(setting=setting)
    if name == "quant_cache":
        return GridPoint(setting=setting, gate=Interval(2), cache_bits=8)
    is_full = name == "full_dqar"
    cascade = paper_cascade(DQARConfig(entropy_threshold=tau, use_layer_scheduling=is_full))
    return GridPoint(setting=setting, gate=cascade, cache_bits=8 if is_full else 32)


def scenarios(config: DQARConfig) -> list[GridPoint]:
    """The DQAR talk's scenarios at one threshold and reuse limit: ``baseline`` samples without
    reuse, ``static`` reuses whatever is cached, ``dqar`` is the talk's cascade.

    Args:
        config: the talk's values with the threshold and the limit.
    """
    gates = {"baseline": None, "static": RequireCached(), "dqar": paper_cascade(config)}
    limits = {"threshold": config.entropy_threshold, "reuse_limit": config.max_reuse_per_block}
    bits = config.quantization_bits
    return [
        GridPoint(setting={"scenario": name} | limits, gate=gate, cache_bits=bits)
        for name, gate in gates.items()
    ]
