"""Layer schedules of the DQAR paper and talk: the layers that may reuse, by progress and SNR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Int
from torch import Tensor

ScheduleType = Literal["step", "linear", "linear-reverse", "exponential", "all"]
SCHEDULE_TYPES = ("step", "linear", "linear-reverse", "exponential", "all")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSchedule:
    """A set of layers that may reuse, which grows with progress from the shallowest layer on, or
    under ``linear-reverse`` from the deepest."""

    schedule_type: ScheduleType = "step"
    """``step``: one third of the layers, two thirds from 30% progress, all from 70%; ``linear``: a
    share that grows linearly after warm-up; ``linear-reverse``: the same share of the deepest
    layers; ``exponential``: a share equal to the square of the progress; ``all``: every layer."""
    warmup_fraction: float = 0.2
    """Progress before which ``linear`` and ``linear-reverse`` let no layer reuse."""
    layer_fraction: float = 1.0
    """Share of layers that ``linear`` and ``linear-reverse`` reach on the last step."""
    deep_layer_snr_threshold: float | None = None
    """Smallest SNR at which the deepest third of the layers may reuse; None sets no limit."""

    def __post_init__(self) -> None:
        if self.schedule_type not in SCHEDULE_TYPES:
            raise ValueError(
                f"schedule_type must be one of {SCHEDULE_TYPES}. Got {self.schedule_type!r}. "
                "Pass 'step'."
            )
        for name in ("warmup_fraction", "layer_fraction"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(
                    f"{name} must be in [0, 1]. Got {value}. Pass a share such as 0.2."
                )
        if self.deep_layer_snr_threshold is not None and not self.deep_layer_snr_threshold >= 0:
            raise ValueError(
                "deep_layer_snr_threshold must not be negative. Got "
                f"{self.deep_layer_snr_threshold}. Pass 1.0, or None for no threshold."
            )

    def num_eligible(self, progress: float, num_layers: int) -> int:
        """Number of layers that may reuse at ``progress`` in [0, 1], before the SNR limit."""
        match self.schedule_type:
            case "all":
                return num_layers
            case "step":
                return _step_limit(progress, num_layers)
            case "exponential":
                return int(progress**2 * num_layers)
        return self._linear_limit(progress, num_layers)

    def eligible(
        self, layer: Int[Tensor, " g"], progress: float, num_layers: int, snr: float
    ) -> Bool[Tensor, " g"]:
        """Mask of the given layers, true for each that may reuse."""
        limit = self.num_eligible(progress, num_layers)
        is_reached = layer < limit
        if self.schedule_type == "linear-reverse":
            is_reached = layer >= num_layers - limit
        if self.deep_layer_snr_threshold is None or snr >= self.deep_layer_snr_threshold:
            return is_reached
        return is_reached & (3 * layer < 2 * num_layers)

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
