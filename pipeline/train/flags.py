"""Flags of ``jobs/train.py``. Imports nothing heavy, so that ``--help`` is fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.flags.bounds import INT64, Range, require_distinct, require_within
from pipeline.tracking_flags import TrackingFlags

RANGES = {
    "forecast_orders": Range(least=0, most=2, usual=0),
    "error_feedback": Range(least=0, most=1, usual=0),
    "seed": Range(least=0, most=INT64, usual=0),
}
"""Values that the flags may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """Settings that the flags of a training and its configuration share."""

    features: Literal["seed", "schedule", "full"] = "schedule"
    """Features of the policy. With schedule, whose values are known before sampling, the policy
    plans whole runs. With full, or seed (the features of the DQAR paper), it decides step by step
    from measured values."""
    sites: tuple[str, ...] = ()
    """Parts of the model whose values are reused: attn, or attn,ff, or block for whole blocks, or
    stack for all blocks at once; default: those of the traces."""
    forecast_orders: tuple[int, ...] = ()
    """Orders of forecast that the policy may choose from, such as 0 for the cached value alone;
    default: those of the traces. A policy that decides step by step takes the first."""
    seed: int = 0
    """Random seed of the network's first weights and of the batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainFlags(TrainSettings):
    """Fit a reuse policy on traces, and write it as a small folder. The DQAR paper's
    train_policy.py has --data-path for --traces and --output-dir for --out; its --num-epochs has no
    counterpart, because the fit stops early by itself."""

    traces: list[str]
    """Folder or URI that jobs/collect.py wrote; repeated for several collections of one model, such
    as a first round and one near its policy, which are fitted together."""
    out: str
    """Folder or URI of the policy to write."""
    drop_features: tuple[str, ...] = ()
    """Features to leave out of the chosen set, for an ablation; default: none."""
    error_feedback: tuple[float, ...] = ()
    """Gains of error feedback that the policy may choose from, such as 0 for none; default: those
    of the traces."""
    config: str | None = None
    """YAML file with the settings of comparison experiments, such as configs/one_step_error.yaml;
    default: none."""
    tracking: TrackingFlags = field(default_factory=TrackingFlags)
    """MLflow store that the run is logged to."""

    def __post_init__(self) -> None:
        require_within(self, RANGES)
        require_distinct(self, "sites", "forecast_orders", "drop_features", "error_feedback")
