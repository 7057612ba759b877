"""Which layers may reuse at a step, by depth and progress (the seeds' layer schedules)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ScheduleType = Literal["step", "linear", "all"]
"""``step``: thirds at 30% and 70%; ``linear``: a growing share after warm-up; ``all``: no limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSchedule:
    """The shallowest layers reuse first; the share of layers grows with progress."""

    schedule_type: ScheduleType = "step"
    """The rule."""
    warmup_fraction: float = 0.2
    """Progress before which ``linear`` lets nothing reuse."""
    layer_fraction: float = 1.0
    """Share of layers that ``linear`` reaches on the last step."""

    def __post_init__(self) -> None:
        if self.schedule_type not in ("step", "linear", "all"):
            raise ValueError(
                f"schedule_type must be step, linear or all. Got {self.schedule_type=}. "
                "Pass one of them."
            )
        for name in ("warmup_fraction", "layer_fraction"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1]. Got {value}. Pass a share.")

    def num_eligible(self, progress: float, num_layers: int) -> int:
        """How many of the shallowest layers may reuse at ``progress`` in [0, 1]."""
        if self.schedule_type == "all":
            return num_layers
        if self.schedule_type == "step":
            return _step_limit(progress, num_layers)
        return self._linear_limit(progress, num_layers)

    def _linear_limit(self, progress: float, num_layers: int) -> int:
        if progress < self.warmup_fraction or self.warmup_fraction >= 1.0:
            return 0
        share = (progress - self.warmup_fraction) / (1.0 - self.warmup_fraction)
        return int(share * int(self.layer_fraction * num_layers))


def _step_limit(progress: float, num_layers: int) -> int:
    third = num_layers // 3
    if progress < 0.3:
        return third
    return 2 * third if progress < 0.7 else num_layers
