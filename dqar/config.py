"""The settings of a DQAR controller; the defaults are the DQAR paper's values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dqar.cache.quantization import CacheDtype, CacheFormat, Granularity
from dqar.layer_schedule import SCHEDULE_TYPES, LayerSchedule, ScheduleType
from dqar.records import MAX_ORDER, SITES, WHOLE_SITES

CACHE_DTYPES: dict[int, CacheDtype] = {32: "fp32", 16: "fp16", 8: "int8", 4: "int4", 2: "int2"}
CachedParts = Literal["output", "kv"]
"""The tensors that the ``attn`` site caches: its output, or its keys and values."""

CHOICES = {
    "quantization_bits": tuple(CACHE_DTYPES),
    "quantization_mode": get_args(Granularity),
    "cached": get_args(CachedParts),
    "schedule_type": SCHEDULE_TYPES,
    "branch_mode": ("tied", "independent"),
    "forecast_order": tuple(range(MAX_ORDER + 1)),
}
RANGES = {
    "entropy_threshold": (0.0, math.inf),
    "snr_low": (0.0, math.inf),
    "snr_high": (0.0, math.inf),
    "cooldown_fraction": (0.0, 1.0),
    "min_probability": (0.0, 1.0),
    "max_gap": (0, math.inf),
    "max_reuse_per_block": (0, math.inf),
    "entropy_rows": (1, math.inf),
    "feedback": (0.0, 1.0),
    "cross_branch_threshold": (0.0, math.inf),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DQARConfig:
    """Settings of the reuse rules, the quantised cache and the layer schedule."""

    enabled: bool = True
    """False never reuses: the model runs as if it were not patched."""
    entropy_threshold: float = 2.0
    """tau_base, in nats per query row: attention is reused where its entropy is below
    ``tau(p) = tau_base * sqrt(p / 16)`` for a prompt of p tokens."""
    adaptive_entropy: bool = True
    """True scales tau with the prompt length; False uses tau_base for every prompt."""
    snr_low: float = 0.1
    """Lower end of the SNR window in which reuse is allowed."""
    snr_high: float = 10.0
    """Upper end of the SNR window in which reuse is allowed."""
    warmup_fraction: float = 0.2
    """Share of the steps, counted from the first, that never reuse."""
    cooldown_fraction: float = 0.0
    """Share of the steps, counted back from the last, that never reuse."""
    max_gap: int = 6
    """Largest age, in steps, of a cached value that may be reused (staleness)."""
    max_reuse_per_block: int = 6
    """Largest number of reuses of one cached value (budget)."""
    min_probability: float = 0.5
    """Smallest reuse probability, predicted by a policy, at which a cached value is reused."""
    quantization_mode: Granularity = "per_tensor"
    """Granularity of an integer cache's scales; every sample has scales of its own."""
    quantization_bits: Literal[2, 4, 8, 16, 32] = 8
    """Bits of a cached value: 2, 4 and 8 are integers, 16 is fp16 (bf16 for a model in bf16), 32 is
    fp32."""
    quantize_keys: bool = True
    """False caches keys in 16 bits and quantises only values (mixed K16/V8)."""
    cached: CachedParts = "output"
    """Tensors that ``attn`` caches: its output, or its keys and values, which the current step's
    queries then attend to."""
    forecast_order: Literal[0, 1, 2] = 0
    """Order of the forecast that a reuse shows: 0 is the cached value unchanged, 1 continues it
    along its first divided difference over the steps, 2 along its first and second
    (:mod:`dqar.cache.forecast`). Order k needs k + 1 earlier computations; a value computed less
    often is forecast at a lower order. Each order caches one more tensor per value."""
    feedback: float = 0.0
    """Gain of the error feedback: the share of the model output's estimated error over the steps
    that reused, which is added back at the next step that computes everything
    (:mod:`dqar.control.error_feedback`). 0 adds nothing and stores nothing."""
    cross_branch_threshold: float | None = None
    """Largest relative L2 distance between the guidance branches of a site's result, as measured
    at the last step that computed both, at which the unconditional rows take the conditional
    rows' value. None computes both branches."""
    use_layer_scheduling: bool = True
    """False lets every layer reuse at every step."""
    schedule_type: ScheduleType = "step"
    """Layer schedule: how the set of layers that may reuse grows with the steps."""
    layer_fraction: float = 1.0
    """Share of layers that the linear schedules reach at the last step."""
    deep_layer_snr_threshold: float | None = None
    """Smallest SNR at which the deepest third of the layers may reuse; None sets no limit."""
    sites: tuple[str, ...] = ("attn",)
    """Sites whose result is reused: ``attn``, ``ff`` or both, or whole blocks (``block``)."""
    branch_mode: Literal["tied", "independent"] = "tied"
    """``tied`` takes one decision for both guidance branches of a sample; ``independent`` decides
    each branch separately."""
    entropy_rows: int = 32
    """Number of query rows, spread over the sequence, from which attention entropy is estimated."""

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            _require_choice(name, getattr(self, name), choices)
        for name, (low, high) in RANGES.items():
            _require_range(name, getattr(self, name), low, high)
        self._require_sites()
        if self.snr_low > self.snr_high:
            raise ValueError(
                f"snr_low must not exceed snr_high. Got {self.snr_low} and {self.snr_high}. "
                "Swap them."
            )
        if self.cross_branch_threshold is not None and self.branch_mode != "tied":
            raise ValueError(
                "cross_branch_threshold must come with tied branches. Got branch_mode="
                f"{self.branch_mode!r}. Pass branch_mode='tied'."
            )
        self._schedule()  # raises for values that no layer schedule has

    def _require_sites(self) -> None:
        for site in self.sites:
            _require_choice("sites", site, SITES)
        for whole in set(self.sites) & set(WHOLE_SITES):
            if len(self.sites) > 1:
                raise ValueError(
                    f"{whole} must be the only site, since a {whole} holds all other sites. Got "
                    f"{self.sites}. Pass ({whole!r},)."
                )
        if not self.sites or len(set(self.sites)) < len(self.sites):
            raise ValueError(
                f"sites must name at least one of {SITES}, each once. Got {self.sites}. "
                "Pass ('attn',)."
            )
        if self.cached == "kv" and "attn" not in self.sites:
            raise ValueError(
                f"cached='kv' must come with the site attn. Got {self.sites}. Pass cached='output'."
            )

    def layer_schedule(self) -> LayerSchedule:
        """The layer schedule that these settings describe."""
        return self._schedule() if self.use_layer_scheduling else LayerSchedule(schedule_type="all")

    def _schedule(self) -> LayerSchedule:
        return LayerSchedule(
            schedule_type=self.schedule_type,
            warmup_fraction=self.warmup_fraction,
            layer_fraction=self.layer_fraction,
            deep_layer_snr_threshold=self.deep_layer_snr_threshold,
        )

    @property
    def cache_dtype(self) -> CacheDtype:
        """Storage type of a cached value."""
        return CACHE_DTYPES[self.quantization_bits]

    def cache_formats(self, num_heads: int | None) -> dict[str, CacheFormat]:
        """Storage format of each cached part (``output``, ``keys``, ``values``).

        Raises:
            ValueError: if scales are per head and the number of heads is unknown.
        """
        if self.quantization_mode == "per_head" and num_heads is None:
            raise ValueError(
                "num_heads must be known for per_head scales. Got None. "
                "Pass num_heads=, or attach the controller to a model."
            )
        form = CacheFormat(
            dtype=self.cache_dtype, granularity=self.quantization_mode, num_heads=num_heads or 1
        )
        keeps_keys = not self.quantize_keys and self.quantization_bits < 16
        keys = CacheFormat(dtype="fp16") if keeps_keys else form
        return {"output": form, "keys": keys, "values": form}

    @classmethod
    def slides(cls) -> DQARConfig:
        """The DQAR talk's values (slide 5): tau 2.5, SNR in [0.1, 100]."""
        return cls(entropy_threshold=2.5, snr_high=100.0)

    @classmethod
    def never(cls) -> DQARConfig:
        """Settings that never reuse."""
        return cls(enabled=False)


def _require_range(name: str, value: int | float | None, low: int | float, high: float) -> None:
    # Written as "not low <= value" so that NaN is out of range.
    if value is not None and not low <= value <= high:
        raise ValueError(
            f"{name} must be in [{low:g}, {high:g}]. Got {value}. Pass a number in that range."
        )


def _require_choice(name: str, value: object, choices: tuple) -> None:
    if (value, type(value)) not in [(choice, type(choice)) for choice in choices]:
        raise ValueError(f"{name} must be one of {choices}. Got {value!r}. Pass {choices[0]!r}.")
