"""The frozen records that the packages of ``dqar`` exchange, and the features of a policy.

A *gate* is one reuse decision: one site of one layer at one step. Axes of tensors:

    b  columns that are decided separately: samples, or batch rows when branches are independent
    r  rows of the model's batch, branch-major: [cond; uncond] or [uncond; cond]
    s  some of these samples or rows
    g  gates of one step, site-major (:class:`dqar.gate_table.GateTable`)
    t  denoising steps        h  attention heads      n  tokens
    d  model width            e  head width           f  features
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

SITES = ("attn", "ff", "block", "stack", "cross", "ff_context")
"""Sites whose result may be reused.

``attn``, ``cross``, ``ff`` and ``ff_context`` are the outputs of self-attention (joint attention
included), of cross-attention, and of the feed-forward of latent and of text tokens, each cached
before its adaLN gate is applied. ``block`` is the residual of a whole block, ``stack`` the residual
of a whole stack of blocks. Policies read places in this tuple, so new sites come last.
"""

WHOLE_SITES = ("block", "stack")
"""Sites that hold all others, and so come alone."""

FEATURES = (
    "entropy",
    "log_snr",
    "log_latent_norm",
    "progress",
    "prompt_length",
    "depth",
    "site_code",
    "log_gap",
    "log_span",
    "log_drift",
    "share_attn",
    "share_ff",
    "quant_error",
    "log_progress",
    "log_remaining",
    "log_span_before",
    "order",
    "feedback",
)
"""Every feature that a policy may read, in the order of its input. All of them are known when the
step starts. Damage is close to a power of staleness and drift, hence the logarithms."""

FEATURE_SETS = {
    "seed": ("entropy", "log_snr", "log_latent_norm", "progress", "prompt_length"),
    "schedule": (
        "log_snr",
        "progress",
        "log_progress",
        "log_remaining",
        "depth",
        "site_code",
        "log_gap",
        "log_span",
        "log_span_before",
        "order",
        "feedback",
    ),
    "full": FEATURES,
}
"""The named choices of ``jobs/train.py --features``. ``seed`` is the DQAR paper's set.
``schedule`` holds the features that are known before a run starts, so that a policy over them can
plan a whole run."""

ACTIONS = ("reuse", "forecast1", "forecast2")
"""Names of the ways to reuse a cached value, by forecast order: unchanged (0), continued along its
first divided difference (1), or along its first and second (2)."""

MAX_ORDER = len(ACTIONS) - 1
"""Highest forecast order."""


class DecisionReason(IntEnum):
    """The reason why a gate reused or refused, under the name that traces and summaries show.

    ``SHARED`` refuses the cached value, and gives the unconditional row the value that the
    conditional row computes in the same step. Two reasons occur in records of finished steps only:
    ``DECLINED``, where the gate allowed reuse and the caller computed anyway, and ``ABSENT``, where
    the step did not call the gate's transformer (pipelines of two transformers).
    """

    REUSE = 0
    COLD = 1
    WARMUP = 2
    SCHEDULE = 3
    STALE = 4
    BUDGET = 5
    ENTROPY = 6
    SNR = 7
    POLICY = 8
    INTERVAL = 9
    SCRIPT = 10
    CLOSED = 11
    COOLDOWN = 12
    SHARED = 13
    DECLINED = 14
    ABSENT = 15

    @property
    def label(self) -> str:
        """The lower-case name, as written to traces."""
        return self.name.lower()


STACKED = "stacked"
"""The branch name of a batch that holds all guidance branches, one after the other."""


@dataclass(frozen=True, slots=True)
class EntryKey:
    """The name of one cached value, such as ``EntryKey("attn", 3, "cond")``."""

    site: str
    layer: int
    branch: str = STACKED
    lender: str | None = None
    """The guidance branch whose value this entry takes over (reason ``SHARED``); None for an
    entry that is read from the cache."""


@dataclass(frozen=True, slots=True)
class PartKey:
    """The name of one cached tensor of a site, such as ``PartKey("attn", 3, "values")``; all
    guidance branches have one name."""

    site: str
    layer: int
    part: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One sampling step. Example: ``Step(index=3, total=50, timestep=920.0, snr=0.012)``."""

    index: int
    """Steps done so far, from 0."""
    total: int
    """Steps of the whole run."""
    timestep: float
    """The scheduler's timestep."""
    snr: float | None
    """Signal-to-noise ratio of the latent before the step (a ratio of powers); None where neither
    the gate nor a sink reads it, since not every scheduler has one."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.total:
            raise ValueError(
                f"index must be in [0, total). Got {self.index=}, {self.total=}. "
                "Pass the zero-based step and the number of steps."
            )

    @property
    def progress(self) -> float:
        """``index / (total - 1)``: 0 on the first step, 1 on the last."""
        return self.index / max(1, self.total - 1)

    @property
    def log_progress(self) -> float:
        """``log(progress + 1/50)``, which differs most between the first steps."""
        return math.log(self.progress + 0.02)

    @property
    def log_remaining(self) -> float:
        """``log(1 - progress + 1/50)``, which differs most between the last steps: an error made
        there has few steps left in which the sampler can correct it."""
        return math.log(1.02 - self.progress)

    @property
    def known_snr(self) -> float:
        """The SNR, for a gate that reads it.

        Raises:
            ValueError: if the SNR was not asked for.
        """
        if self.snr is None:
            raise ValueError(
                "A gate that reads the SNR must say so. Got a step without SNR. Return True from "
                "the gate's reads_snr."
            )
        return self.snr

    @property
    def log_snr(self) -> float:
        """Natural logarithm of the SNR, kept finite where the schedule reaches 0 or infinity."""
        return math.log(min(max(self.known_snr, 1e-8), 1e8))


@dataclass(frozen=True, kw_only=True, slots=True)
class GateInputs:
    """The inputs of a reuse rule: all gates of one step, for every sample of the batch."""

    step: Step
    num_layers: int
    site: Int[Tensor, " g"]
    """Index into :data:`SITES`."""
    layer: Int[Tensor, " g"]
    """Index of the transformer block, from 0."""
    cached: Bool[Tensor, "g b"]
    """True where the cache holds a value."""
    gap: Int[Tensor, "g b"]
    """Steps since the cached value was computed (staleness)."""
    reuses: Int[Tensor, "g b"]
    """Reuses of the cached value since it was computed (budget)."""
    span: Int[Tensor, "g b"]
    """Steps between the last two computations; 0 with fewer than two."""
    span_before: Int[Tensor, "g b"]
    """Steps between the two computations before the last; 0 with fewer than three."""
    order: Int[Tensor, "g b"]
    """Order of the forecast that a reuse would show; 0 is the cached value unchanged. Never more
    than the number of earlier computations allows."""
    feedback: Float[Tensor, " b"]
    """Gain of the run's error feedback (:mod:`dqar.control.error_feedback`)."""
    entropy: Float[Tensor, "g b"]
    """Attention entropy at the last computation, nats, mean over rows, heads and branches."""
    drift: Float[Tensor, "g b"]
    """Relative L2 change between the last two computed outputs."""
    quant_error: Float[Tensor, "g b"]
    """Relative L2 error of the cached value's quantisation."""
    branch_gap: Float[Tensor, "g b"]
    """Relative L2 distance of the unconditional to the conditional branch of the site's result, at
    the last step that computed both; NaN before that step."""
    branch_age: Int[Tensor, "g b"]
    """Steps since ``branch_gap`` was measured."""
    log_latent_norm: Float[Tensor, " b"]
    """Natural logarithm of the latent's L2 norm."""
    prompt_length: Float[Tensor, " b"]
    """Tokens of the prompt; 16 for a class label."""
    share_attn: Float[Tensor, " b"]
    """Share of the previous step's ``attn`` gates that reused; with the site ``block`` or
    ``stack``, share of its gates."""
    share_ff: Float[Tensor, " b"]
    """Share of the previous step's ``ff`` gates that reused; with the site ``block`` or ``stack``,
    share of its gates."""

    @property
    def shape(self) -> torch.Size:
        """``(g, b)``."""
        return self.cached.shape

    @property
    def depth(self) -> Float[Tensor, " g"]:
        """``layer / (num_layers - 1)``: 0 for the first block, 1 for the last."""
        return self.layer.float() / max(1, self.num_layers - 1)

    def columns(self, names: tuple[str, ...]) -> Float[Tensor, "g b f"]:
        """The named features, unscaled, in the order of ``names``."""
        return torch.stack([self._column(name).float().expand(self.shape) for name in names], -1)

    def _column(self, name: str) -> Tensor:
        match name:
            case "log_snr" | "progress" | "log_progress" | "log_remaining":
                return torch.tensor(getattr(self.step, name), device=self.cached.device)
            case "prompt_length":
                return self.prompt_length / 128.0
            case "depth":
                return self.depth[:, None]
            case "site_code":
                return self.site[:, None]
            case "log_gap" | "log_span" | "log_span_before":
                # A count of 0 means that nothing was computed yet; half a step stands for it.
                return getattr(self, name[4:]).float().clamp_min(0.5).log()
            case "log_drift":
                return self.drift.clamp_min(1e-4).log()
            case _:
                return getattr(self, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class GateDecision:
    """The decisions of a reuse rule for every gate of a step and every sample, with reasons."""

    reason: UInt8[Tensor, "g b"]
    """A :class:`DecisionReason`; reuse is the reason ``REUSE``."""

    @property
    def reuse(self) -> Bool[Tensor, "g b"]:
        """True where the cached value is to be used."""
        return self.reason == DecisionReason.REUSE


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRecord:
    """One finished step: the inputs of its decisions, the decisions, and (in exposure) the local
    error of each."""

    inputs: GateInputs
    decision: GateDecision
    local_rel_error: Float[Tensor, "g b"]
    """Relative L2 distance between the value that a reuse shows and the computed one; NaN where
    nothing was cached or the value was not computed."""
