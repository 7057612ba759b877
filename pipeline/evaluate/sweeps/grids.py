"""Points of the sweeps: the DQAR paper's layer schedules and ablations, the DQAR talk's scenarios.

A point is a rule for reuse with the bits of its cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dqar.config import DQARConfig
from dqar.gates.base import Gate
from dqar.gates.paper_cascade import paper_cascade
from dqar.gates.rules import Interval, RequireCached, Scheduled
from dqar.layer_schedule import LayerSchedule, ScheduleType
from pipeline.evaluate.sweeps.flags import AblationGrid, ScheduleSweep
from pipeline.methods.base import OperatingPoint

CacheBits = Literal[2, 4, 8, 16, 32]
DIT_XL = {"num_layers": 28, "steps": 50}
"""Layers and steps of DiT-XL, for which the DQAR paper gives its reuse ratios."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GridPoint:
    """One setting of a sweep before its measurement."""

    setting: dict[str, Any]
    """Names and values of the varied settings, the same keys in every point of a sweep."""
    gate: Gate | None = None
    """Rule that decides about reuse; None samples without reuse."""
    cache_bits: CacheBits = 16
    """Bits of a cached value."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Figures that follow from the setting by arithmetic."""

    def at(self, steps: int) -> OperatingPoint:
        """Return the operating point of an evaluation, named by the setting."""
        name = " ".join(f"{value}" for value in self.setting.values())
        return OperatingPoint(method=name, operating_point=name, steps=steps, gate=self.gate)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleGrid:
    """Layer schedules that alone decide about reuse: no entropy threshold, no SNR window, no limit
    on the age or the number of reuses."""

    schedule_types: tuple[ScheduleType, ...]
    """Schedules: ``linear`` lets the shallowest layers reuse first, ``linear-reverse`` the
    deepest."""
    warmups: tuple[float, ...]
    """Shares of the steps, from the first, in which nothing is reused."""
    layer_fractions: tuple[float, ...]
    """Shares of the layers that may be reused on the last step."""
    cache_bits: CacheBits
    """Bits of a cached value."""

    def __post_init__(self) -> None:
        for name in ("schedule_types", "warmups", "layer_fractions"):
            if not getattr(self, name):
                raise ValueError(f"{name} must hold at least one value. Got none. Pass one.")
        self.schedules()

    def schedules(self) -> list[LayerSchedule]:
        """Return every combination of schedule type, warm-up and layer fraction."""
        return [
            LayerSchedule(schedule_type=kind, warmup_fraction=warmup, layer_fraction=fraction)
            for kind in self.schedule_types
            for warmup in self.warmups
            for fraction in self.layer_fractions
        ]

    def points(self, num_layers: int, steps: int) -> list[GridPoint]:
        """Return the baseline and every schedule.

        The baseline samples without reuse, so that its speed-up over its reference samples differs
        from 1 by the error of the timing alone.

        Args:
            num_layers: number of layers of the model.
            steps: denoising steps of a run.
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


def schedule_grid(flags: ScheduleSweep) -> ScheduleGrid:
    """Return the grid that the flags ask for.

    Raises:
        ValueError: if a share is not in [0, 1], or a list is empty.
    """
    return ScheduleGrid(
        schedule_types=flags.schedule_types,
        warmups=flags.warmups,
        layer_fractions=flags.layer_fractions,
        cache_bits=flags.cache_bits,
    )


def schedule_ratio(schedule: LayerSchedule, num_layers: int, steps: int) -> float:
    """Return the reuse ratio of a schedule that alone decides, by arithmetic, step 0 included.

    Example: LINEAR with warm-up 0.2 and half of 28 layers over 50 steps gives 0.1871.
    """
    shares = (step / max(1, steps - 1) for step in range(steps))
    allowed = sum(schedule.num_eligible(share, num_layers) for share in shares)
    return allowed / (num_layers * steps)


def ablation_points(grid: AblationGrid, tau: float) -> list[GridPoint]:
    """Return the points of an ablation grid.

    Args:
        tau: entropy threshold in nats of the ablations with an entropy gate.
    """
    return [ablation(name, tau) for name in grid.ablations]


def ablation(name: str, tau: float) -> GridPoint:
    """Return the point of one of :data:`pipeline.evaluate.sweeps.flags.ABLATIONS`.

    Args:
        tau: entropy threshold in nats, where the ablation has an entropy gate.
    """
    setting = {"ablation": name}
    if name == "baseline":
        return GridPoint(setting=setting)
    if name == "quant_cache":
        return GridPoint(setting=setting, gate=Interval(2), cache_bits=8)
    is_full = name == "full_dqar"
    cascade = paper_cascade(DQARConfig(entropy_threshold=tau, use_layer_scheduling=is_full))
    return GridPoint(setting=setting, gate=cascade, cache_bits=8 if is_full else 32)


def scenarios(config: DQARConfig) -> list[GridPoint]:
    """Return the DQAR talk's three scenarios at one entropy threshold and reuse limit.

    ``baseline`` samples without reuse, ``static`` reuses every value that is cached, ``dqar`` is
    the talk's cascade.

    Args:
        config: the talk's configuration with the threshold and the limit.
    """
    gates = {"baseline": None, "static": RequireCached(), "dqar": paper_cascade(config)}
    limits = {"threshold": config.entropy_threshold, "reuse_limit": config.max_reuse_per_block}
    bits = config.quantization_bits
    return [
        GridPoint(setting={"scenario": name} | limits, gate=gate, cache_bits=bits)
        for name, gate in gates.items()
    ]
